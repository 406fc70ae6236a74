"""Slow, obvious references of rival training-free methods, nothing shared with itaclip.

Every method turns one CLIP-normalised image (3, H, W) into L2-normalised patch features (h, w, E);
``clip`` is a ``clip.model.CLIP``. Attention maps are explicit N×N matrices, tokens are handled one
by one where that is what the description says. Blocks are counted from 1; h = H // patch,
w = W // patch; patches row by row, token 0 is [CLS]. s = d^-½, S = softmax over the last axis,
LN1, W_qkv and O are the norm, the projections and the output projection of the block in question.

What the descriptions leave open is listed in each docstring under "inferred". Common to all:
positions are those of ``reference.position_embedding`` (CLIP Surgery's own are bilinear).
"""

from fractions import Fraction

import reference
import torch


def first_tokens(visual, image):
    """image (3, H, W) → the input of block 1 (N, D), and (h, w)."""
    patch = visual.conv1.kernel_size[0]
    h, w = image.shape[1] // patch, image.shape[2] // patch
    patches = visual.conv1(image[None])[0].flatten(1).T
    x = torch.cat([visual.class_embedding[None], patches])
    return visual.ln_pre(x + reference.position_embedding(visual, h, w)), (h, w)


def inputs_and_outputs(visual, image):
    """Ordinary run: a list F, F[i] the output of block i, F[0] the input of block 1; and (h, w)."""
    x, grid = first_tokens(visual, image)
    outputs = [x]
    for block in visual.transformer.resblocks:
        outputs.append(run(block, outputs[-1]))
    return outputs, grid


def run(block, x):
    return block(x[:, None])[:, 0]


def projections(block, x):
    """q, k, v of a block whose input is x (N, D), each (heads, N, d)."""
    qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    heads = block.attn.num_heads
    return tuple(t.reshape(len(x), heads, -1).permute(1, 0, 2) for t in qkv.chunk(3, dim=-1))


def merge(block, attended):
    """O of the heads side by side; (heads, N, d) → (N, D)."""
    return block.attn.out_proj(attended.permute(1, 0, 2).flatten(1))


def self_similarity(t):
    """s t tᵀ; (heads, N, d) → (heads, N, N)."""
    return t.shape[-1] ** -0.5 * t @ t.transpose(1, 2)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def features(visual, patches, grid):
    """Residual stream of the patches (hw, D) → (h, w, E)."""
    return unit(visual.ln_post(patches) @ visual.proj).reshape(*grid, -1)


# ---- CLIP Surgery -------------------------------------------------------------------------------


def clip_surgery(clip, image, *, start=7):
    """Beside the blocks ``start`` … L, a second path that adds O(S(s v vᵀ) v) of each.

    v comes from LN1 of the ordinary path; the second path has no MLP.

    Inferred: [CLS] takes part in the maps as any token. (That [CLS] of the output is the ordinary
    path's does not touch the patches.) No feature surgery: it works on class maps.
    """
    with torch.no_grad():
        x, grid = first_tokens(clip.visual, image)
        second = None
        for number, block in enumerate(clip.visual.transformer.resblocks, start=1):
            if number == start:
                second = x
            if number >= start:
                v = projections(block, x)[2]
                second = second + merge(block, self_similarity(v).softmax(-1) @ v)
            x = run(block, x)
        return features(clip.visual, second[1:], grid)


# ---- GEM ----------------------------------------------------------------------------------------


def gem_attention(t, v, inverse_temperature, iterations):
    """t, v (heads, N, d): t is clustered by self-self attention, then it weighs the values."""

    def weights():
        return (inverse_temperature * t @ t.transpose(1, 2)).softmax(-1)

    for _ in range(iterations):
        t = unit(t)
        t = weights() @ t
    t = unit(t)
    return weights() @ v


def gem(clip, image, *, start=7, iterations=1, temperature=None):
    """Beside the blocks ``start`` … L, a second path that adds O(mean of the three clusterings).

    Without ``temperature``, τ⁻¹ = s · mean over tokens of ‖LN1(x)‖.

    Inferred: ``temperature``, when given, is the factor τ⁻¹ itself; the mean runs over all tokens,
    [CLS] included; norms and clusterings are per head.
    """
    with torch.no_grad():
        x, grid = first_tokens(clip.visual, image)
        second = None
        for number, block in enumerate(clip.visual.transformer.resblocks, start=1):
            if number == start:
                second = x
            if number >= start:
                q, k, v = projections(block, x)
                factor = temperature
                if factor is None:
                    factor = v.shape[-1] ** -0.5 * block.ln_1(x).norm(dim=-1).mean()
                out = sum(gem_attention(t, v, factor, iterations) for t in (v, k, q)) / 3
                second = second + merge(block, out)
            x = run(block, x)
        return features(clip.visual, second[1:], grid)


# ---- ResCLIP ------------------------------------------------------------------------------------


def feedback_labels(logits, image, patch, scale, threshold, iterations, dilations):
    """Patch logits (h, w, Q) → one query index per patch (h, w).

    Upsampled to the window, refined, softmax; unsure pixels are 0; a patch takes the commonest
    label of its pixels.

    Inferred: of labels that are equally common the smallest; pixels beyond the last whole patch
    are left out.
    """
    h, w, _ = logits.shape
    logits = reference.upsample(logits.permute(2, 0, 1), image.shape[1:])
    probabilities = (scale * reference.pamr(logits, image, iterations, dilations)).softmax(0)
    best, pixels = probabilities.max(0)
    pixels = torch.where(best < threshold, 0, pixels)
    labels = torch.zeros(h, w, dtype=torch.long)
    for row in range(h):
        for column in range(w):
            square = pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            labels[row, column] = square.flatten().bincount().argmax()  # the first = the smallest
    return labels


def straight_line(start, end):
    """Grid positions on the line from start to end, one per Chebyshev step, both ends included.

    Inferred: coordinates halfway between two patches are rounded to the even one.
    """
    steps = max(abs(start[0] - end[0]), abs(start[1] - end[1]), 1)
    return [
        tuple(round(a + Fraction(t * (b - a), steps)) for a, b in zip(start, end, strict=True))
        for t in range(steps + 1)
    ]


def same_label_mask(labels):
    """labels (h, w) → (hw, hw): 1 for patches of one label, less where another lies between."""
    h, w = labels.shape
    cells = [(row, column) for row in range(h) for column in range(w)]
    mask = torch.zeros(h * w, h * w)
    for i, start in enumerate(cells):
        for j, end in enumerate(cells):
            if labels[start] != labels[end]:
                continue
            mask[i, j] = 1.0
            if any(labels[cell] != labels[start] for cell in straight_line(start, end)):
                distance = max(abs(start[0] - end[0]), abs(start[1] - end[1]))
                mask[i, j] = torch.exp(torch.tensor(-distance / (max(h, w) - 1)))
    return mask


def feedback_map(labels, std=5.0, kernel=31):
    """M of ResCLIP: every row of the mask blurred as a flat sequence, then scaled; (hw, hw).

    Inferred: the sequence is padded with zeros; a row is divided by its sum, so that the kernel's
    own sum does not matter.
    """
    mask, radius = same_label_mask(labels), kernel // 2
    line = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * std**2))
    blurred = torch.zeros_like(mask)
    for to in range(len(mask)):
        for offset in range(-radius, radius + 1):
            if 0 <= to + offset < len(mask):
                blurred[:, to] += line[radius + offset] * mask[:, to + offset]
    blurred = blurred.relu()
    blurred = blurred / blurred.sum(dim=-1, keepdim=True)
    return blurred / blurred.max()


def resclip(
    clip, image, text=None, *, rcs_weight=0.3, sfr_weight=0.7, sfr_scale=2.2, feedback_thd=0.5,
    rcs_layers=(6, 7, 8, 9), rcs_scale=2.0, gaussian_std=5.0, feedback_scale=40.0, iterations=10,
    dilations=(8, 16),
):  # fmt: skip
    """Last block: r · ((1 - λ_r) S(logits) + λ_r · mean of S(s q kᵀ) over ``rcs_layers``).

    First pass: logits = s k kᵀ + ω. Second pass, with text (Q, E): the first pass's segmentation
    gives a map M, and logits = τ_s · ((1 - λ_s) s k kᵀ + λ_s M) + ω. No residual, no MLP.

    Inferred: M's row and column of [CLS] are 0; see also :func:`feedback_labels`,
    :func:`straight_line` and :func:`feedback_map`. The largest distance is max(h, w) - 1.
    """
    with torch.no_grad():
        visual = clip.visual
        outputs, (h, w) = inputs_and_outputs(visual, image)
        blocks = list(visual.transformer.resblocks)
        cross = [
            reference.attention_map(blocks[i - 1], outputs[i - 1], ["qk"])[0] for i in rcs_layers
        ]
        cross = torch.stack(cross).mean(0)
        _, k, v = projections(blocks[-1], outputs[-2])
        omega = reference.gaussian(h, w, gaussian_std)

        def last_block(logits):
            attention = (1 - rcs_weight) * (logits + omega).softmax(-1) + rcs_weight * cross
            return features(visual, merge(blocks[-1], rcs_scale * attention @ v)[1:], (h, w))

        first = last_block(self_similarity(k))
        if text is None:
            return first
        labels = feedback_labels(
            first @ text.T, image, visual.conv1.kernel_size[0], feedback_scale, feedback_thd,
            iterations, dilations,
        )  # fmt: skip
        feedback = torch.zeros_like(omega)
        feedback[1:, 1:] = feedback_map(labels)
        return last_block(
            sfr_scale * ((1 - sfr_weight) * self_similarity(k) + sfr_weight * feedback)
        )


# ---- SC-CLIP ------------------------------------------------------------------------------------


def local_outlier_factor(x, neighbours):
    """Breunig et al., with the squared distance as metric; x (n, D) → (n,).

    Inferred: n - 1 neighbours where there are fewer than asked for; exactly that many also when
    distances are equal; a single token has factor 1.
    """
    n = len(x)
    count = min(neighbours, n - 1)
    if count == 0:
        return torch.ones(n)
    distance = torch.stack([((x - x[i]) ** 2).sum(-1) for i in range(n)])
    nearest = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        nearest.append(sorted(others, key=lambda j: float(distance[i, j]))[:count])
    reach = [max(float(distance[i, j]) for j in nearest[i]) for i in range(n)]
    density = torch.zeros(n)
    for i in range(n):
        reachability = [max(reach[j], float(distance[i, j])) for j in nearest[i]]
        density[i] = 1 / (sum(reachability) / count + 1e-10)
    return torch.stack([density[nearest[i]].mean() / density[i] for i in range(n)])


def repair(patches, flagged, grid):
    """Flagged patches take the mean of the unflagged ones among their 8 neighbours.

    patches (hw, D), flagged (hw,) → (hw, D). A patch without such a neighbour stays.
    """
    h, w = grid
    repaired = patches.clone()
    for p in range(h * w):
        if not flagged[p]:
            continue
        row, column = divmod(p, w)
        good = [
            r * w + c
            for r in range(max(row - 1, 0), min(row + 2, h))
            for c in range(max(column - 1, 0), min(column + 2, w))
            if not flagged[r * w + c]
        ]
        if good:
            repaired[p] = patches[good].mean(0)
    return repaired


def cosine(x):
    return unit(x) @ unit(x).T


def aggregate(similarity, x, threshold):
    """Tokens become the mean of those at least that similar, weighted by similarity."""
    weights = torch.where(similarity >= threshold, similarity, 0.0)
    return weights @ x / (weights.sum(-1, keepdim=True) + 1e-6)


def sharpened(similarity, sharpness):
    """S(m), m = sharpness · (similarity - its mean), without what is below the mean."""
    m = sharpness * (similarity - similarity.mean())
    return m.masked_fill(m < 0, float("-inf")).softmax(-1)


def scclip(
    clip, image, *, threshold=0.4, similarity_layer=9, post_layer=4,
    second_pass_layers=(4, 5, 6, 7, 8, 9, 10), cls_weight=0.3, neighbours=30, quantile=0.95,
    sharpness=3.0,
):  # fmt: skip
    """Outliers mended, tokens aggregated, ½ (S(s k kᵀ) + S(m)), twice; patches only.

    Inferred: factors are taken from the output of block L - 1; only that output and the one of
    ``similarity_layer`` are mended, the second pass and ``post_layer`` read the blocks' outputs as
    they are; the mean in m is over the whole matrix; the second pass is not aggregated before
    attention.
    """
    with torch.no_grad():
        visual = clip.visual
        outputs, grid = inputs_and_outputs(visual, image)
        last, x = visual.transformer.resblocks[-1], outputs[-2]
        factors = local_outlier_factor(x[1:], neighbours)
        flagged = factors > torch.quantile(factors, quantile)
        similarity = cosine(repair(outputs[similarity_layer][1:], flagged, grid))
        early = cosine(outputs[post_layer][1:])
        shared = sharpened(similarity, sharpness)

        def one_pass(patches, cls):
            _, k, v = projections(last, patches)
            attention = (self_similarity(k).softmax(-1) + shared) / 2
            return aggregate(early, merge(last, attention @ v) + cls_weight * cls, threshold)

        mended = aggregate(similarity, repair(x[1:], flagged, grid), threshold)
        total = sum(outputs[i] for i in second_pass_layers)
        out = one_pass(mended, x[0]) + one_pass(total[1:], total[0])
        return features(visual, out, grid)


# ---- RF-CLIP, the released code's encoder -------------------------------------------------------

B16_CHANNELS = (4, 162, 189, 326, 429, 474, 633, 713)  # counted from 0


def distracted(patches, channels, factor):
    """Which patches (n, D) hold more than factor / D of their mass in one of the channels.

    Inferred: minimum and sum are those of the token's own values over all D channels, and one
    channel suffices (the paper's maximum).
    """
    flags = torch.zeros(len(patches), dtype=torch.bool)
    for i, token in enumerate(patches):
        mass = token - token.min()
        mass = mass / mass.sum()
        flags[i] = mass[list(channels)].max() > factor / len(token)
    return flags


def denoise(patches, grid, channels, factor, share):
    """Flagged patches move by ``share`` towards the mean of the 3×3 square around them.

    Inferred: the mean is over the part of the square that lies inside the grid.
    """
    h, w = grid
    flags = distracted(patches, channels, factor)
    field = patches.reshape(h, w, -1)
    out = patches.clone()
    for p in range(h * w):
        if flags[p]:
            row, column = divmod(p, w)
            square = field[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            out[p] = (1 - share) * patches[p] + share * square.flatten(0, 1).mean(0)
    return out


def rfclip(clip, image, *, channels=B16_CHANNELS, factor=5.0, share=0.4, threshold=0.4):
    """Denoised after every block; last attention the mean of all blocks' S(s k kᵀ), patches only.

    Guide G = mean of all L blocks' outputs. The last block attends once over thr(cos(G, G)) x, rows
    not normalised, and once over G; the two outputs are averaged. No residual, no MLP.

    Inferred: [CLS] is never denoised; what the next block and G read is denoised, after block L
    too; x is the (denoised) input of block L, which also runs ordinarily for the sake of G; each
    block's map comes from its own input, the last one's included, and both passes share their mean;
    G itself is not aggregated.
    """
    with torch.no_grad():
        visual = clip.visual
        x, grid = first_tokens(visual, image)
        blocks = visual.transformer.resblocks
        maps, outputs = [], []
        for block in blocks:
            before = x
            k = projections(block, x[1:])[1]
            maps.append(self_similarity(k).softmax(-1))
            x = run(block, x)
            x = torch.cat([x[:1], denoise(x[1:], grid, channels, factor, share)])
            outputs.append(x[1:])
        attention = torch.stack(maps).mean(0)
        guide = torch.stack(outputs).mean(0)

        def last_block(patches):
            return merge(blocks[-1], attention @ projections(blocks[-1], patches)[2])

        similarity = cosine(guide)
        weights = torch.where(similarity >= threshold, similarity, 0.0)
        out = (last_block(weights @ before[1:]) + last_block(guide)) / 2
        return features(visual, out, grid)


# ---- PEARL, the alignment in the last block -----------------------------------------------------


def polar_factor(matrix):
    """U Vᵀ of A = U Σ Vᵀ, (…, d, d), in double precision.

    Inferred: where A has no full rank (fewer tokens than d), its null space is mapped to 0, as
    Newton-Schulz iterations do.
    """
    u, sigma, vh = torch.linalg.svd(matrix.double())
    kept = sigma > matrix.shape[-1] * torch.finfo(torch.float64).eps * sigma.amax(-1, keepdim=True)
    return ((u * kept[..., None, :]) @ vh).float()


def alignment(q, k):
    """Rotation R of the keys onto the queries, and the centred keys; q, k (heads, N, d).

    Inferred: both means are weighted with the queries' norms, per head; the matrix Kcᵀ Qc itself
    is not weighted and has [CLS] in it.
    """
    weights = q.norm(dim=-1, keepdim=True).clone()
    weights[:, 0] = 0
    weights = weights / weights.sum(dim=1, keepdim=True)
    queries = q.double() - (weights.double() * q).sum(dim=1, keepdim=True)
    keys = k.double() - (weights.double() * k).sum(dim=1, keepdim=True)
    return polar_factor(keys.transpose(1, 2) @ queries), keys.float()


def pearl(clip, image, *, self_weight=0.08):
    """Last block: S(s q (k R)ᵀ + a s Kc Kcᵀ), no residual, no MLP.

    Inferred: R is the exact polar factor (the code's few iterations only approach it).
    """
    with torch.no_grad():
        visual = clip.visual
        outputs, grid = inputs_and_outputs(visual, image)
        last = visual.transformer.resblocks[-1]
        q, k, v = projections(last, outputs[-2])
        rotation, keys = alignment(q, k)
        logits = q.shape[-1] ** -0.5 * q @ (k @ rotation).transpose(1, 2)
        attention = (logits + self_weight * self_similarity(keys)).softmax(-1)
        return features(visual, merge(last, attention @ v)[1:], grid)
