"""Slow references of the methods with a second backbone, straight from their formulas.

Nothing is shared with itaclip: N×N maps are explicit, windows are handled one by one, the guide is
run from the raw weights of its folder.
"""

import math

import numpy as np
import reference
import torch
import torch.nn.functional as F

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def column(values):
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


# ---- the guide: DINO's vision transformer from raw weights --------------------------------------


def vit(model, image, clip_mean, clip_std, heads=2):
    """(3, H, W) CLIP-normalised → tokens after the norm, q, k, v of the last block, grid.

    Each (P, D), [CLS] dropped, heads side by side.
    """
    state, eps = model.state_dict(), 1e-12
    pixels = image * column(clip_std) + column(clip_mean)
    pixels = (pixels - column(IMAGENET[0])) / column(IMAGENET[1])
    weight = state["embeddings.patch_embeddings.projection.weight"]
    patch = weight.shape[-1]
    h, w = pixels.shape[1] // patch, pixels.shape[2] // patch
    x = F.conv2d(
        pixels[None], weight, state["embeddings.patch_embeddings.projection.bias"], stride=patch
    )
    x = torch.cat([state["embeddings.cls_token"][0], x[0].flatten(1).T])
    x = x + positions(state["embeddings.position_embeddings"][0], h, w)
    layers = len({k.split(".")[1] for k in state if k.startswith("layers.")})

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)

    for i in range(layers):
        at = f"layers.{i}"
        y = norm(f"{at}.layernorm_before", x)
        q, k, v = (linear(f"{at}.attention.{n}_proj", y) for n in "qkv")
        own = []
        for part in range(heads):
            d = q.shape[1] // heads
            cut = slice(part * d, (part + 1) * d)
            own.append((q[:, cut] @ k[:, cut].T / math.sqrt(d)).softmax(-1) @ v[:, cut])
        x = x + linear(f"{at}.attention.o_proj", torch.cat(own, 1))
        y = linear(f"{at}.mlp.fc1", norm(f"{at}.layernorm_after", x))
        x = x + linear(f"{at}.mlp.fc2", F.gelu(y))
    return norm("layernorm", x)[1:], q[1:], k[1:], v[1:], (h, w)


def positions(table, h, w):
    """DINO's rule."""
    side = int(math.sqrt(len(table) - 1))
    if (h, w) == (side, side):
        return table
    grid = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=((h + 0.1) / side, (w + 0.1) / side), mode="bicubic")
    return torch.cat([table[:1], grid[0].flatten(1).T])


# ---- CLIP's side --------------------------------------------------------------------------------


def tokens_before(clip, image, upto=None):
    """Tokens (N, D) after every block but the last: [0] enters block 1; and the grid."""
    visual = clip.visual
    patch = visual.conv1.kernel_size[0]
    h, w = image.shape[1] // patch, image.shape[2] // patch
    x = visual.conv1(image[None])[0].flatten(1).T
    x = torch.cat([visual.class_embedding[None], x]) + reference.position_embedding(visual, h, w)
    x = visual.ln_pre(x)
    outputs = [x]
    for block in list(visual.transformer.resblocks)[:-1]:
        x = block(x[:, None])[:, 0]
        outputs.append(x)
    return outputs, (h, w)


def project(block, x):
    """q, k, v (N, D) of a block for its input x."""
    qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    return qkv.chunk(3, dim=-1)


def bilinear(x, grid, target):
    """(P, c) from one grid to another."""
    maps = x.T.reshape(1, -1, *grid)
    maps = F.interpolate(maps, size=target, mode="bilinear", align_corners=False)
    return maps[0].flatten(1).T


def pad(image, multiple=56, value=0.0):
    """Zeros to the next multiple, half (floor) above and left; also (top, left)."""
    height, width = image.shape[-2:]
    more = [-side % multiple for side in (height, width)]
    top, left = more[0] // 2, more[1] // 2
    padded = F.pad(image, (left, more[1] - left, top, more[0] - top), value=value)
    return padded, (top, left)


def to_features(clip, y, grid):
    visual = clip.visual
    return unit(visual.ln_post(y) @ visual.proj).reshape(*grid, -1)


def windows_of(image, crop, stride):
    """(top, left, window) in row-major order; the last ones moved inside."""
    _, height, width = image.shape
    found = []
    rows = max(height - crop + stride - 1, 0) // stride + 1
    columns = max(width - crop + stride - 1, 0) // stride + 1
    for i in range(rows):
        for j in range(columns):
            bottom, right = min(i * stride + crop, height), min(j * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            found.append((top, left, image[:, top:bottom, left:right]))
    return found


def average(logits, tops_lefts, sizes, image_size):
    """Window logits [(Q, h, w)] at the window's size, summed and divided by the count."""
    total, count = torch.zeros(logits[0].shape[0], *image_size), torch.zeros(image_size)
    for own, (top, left), (height, width) in zip(logits, tops_lefts, sizes, strict=True):
        total[:, top : top + height, left : left + width] += own
        count[top : top + height, left : left + width] += 1
    return total / count


def cropped_logits(features, text, padded, offset, size):
    """Features (h, w, E) of a padded window → logits (Q, *size) of the window."""
    logits = reference.upsample((features @ text.T).permute(2, 0, 1), padded)
    top, left = offset
    return logits[:, top : top + size[0], left : left + size[1]]


# ---- ProxyCLIP ----------------------------------------------------------------------------------


def proxyclip(clip, guide, window, stats, beta=1.2, gamma=3.0, mean=None):
    """Features (gh, gw, E) of one window (padded already)."""
    outputs, grid = tokens_before(clip, window)
    last = clip.visual.transformer.resblocks[-1]
    f, *_, target = vit(guide, window, *stats)
    similarity = unit(f) @ unit(f).T
    mean = similarity.mean() if mean is None else mean
    logits = gamma * (similarity - beta * mean)
    logits[logits < 0] = -torch.inf
    attention = logits.softmax(-1)
    v = bilinear(project(last, outputs[-1])[2][1:], grid, target)
    return to_features(clip, last.attn.out_proj(attention @ v), target)


def proxyclip_logits(clip, guide, image, text, stats, crop, stride, **options):
    """(Q, H, W) of the whole picture."""
    logits, places, sizes = [], [], []
    for top, left, window in windows_of(image, crop, stride):
        padded, offset = pad(window)
        features = proxyclip(clip, guide, padded, stats, **options)
        size = tuple(window.shape[1:])
        logits.append(cropped_logits(features, text, tuple(padded.shape[1:]), offset, size))
        places.append((top, left))
        sizes.append(size)
    return average(logits, places, sizes, tuple(image.shape[1:]))


# ---- GLA-CLIP -----------------------------------------------------------------------------------


def gla_clip_logits(
    clip, guide, image, text, stats, crop, stride, steps=2, rho=0.55, factor=0.3, size_factor=30.0
):
    last = clip.visual.transformer.resblocks[-1]
    xs, vs, laid = [], [], windows_of(image, crop, stride)
    for _, _, window in laid:
        padded, offset = pad(window)
        outputs, grid = tokens_before(clip, padded)
        f, *_, target = vit(guide, padded, *stats)
        xs.append(unit(f))
        vs.append(bilinear(project(last, outputs[-1])[2][1:], grid, target))
    x, v = torch.cat(xs), torch.cat(vs)
    beta = 1 + factor * math.log(1 + len(laid))
    rows = []
    for i in range(len(x)):
        proxy, members = x[i], None
        for _ in range(steps):
            members = [j for j in range(len(x)) if proxy @ x[j] > rho]
            proxy = x[members].mean(0)
            proxy = proxy / proxy.norm()
        cosine = x @ proxy
        gamma = 1 + size_factor / len(members)
        logits = gamma * (cosine - beta * max(0.0, float(cosine.mean())))
        logits[logits < min(float(logits.max()), 0.0)] = -torch.inf
        rows.append(logits.softmax(-1) @ v)
    y = last.attn.out_proj(torch.stack(rows)).reshape(len(laid), -1, v.shape[1])
    logits = []
    for own, (_, _, window) in zip(y, laid, strict=True):
        features = to_features(clip, own, target)
        size = tuple(window.shape[1:])
        logits.append(cropped_logits(features, text, tuple(padded.shape[1:]), offset, size))
    places = [(top, left) for top, left, _ in laid]
    return average(logits, places, [size] * len(laid), tuple(image.shape[1:]))


# ---- Trident ------------------------------------------------------------------------------------


def trident_map(clip, guide, image, stats, crop, stride):
    """The spliced map (h·w, D) before SAM, and its grid; the picture's sides fit the patches."""
    last = clip.visual.transformer.resblocks[-1]
    laid = windows_of(image, crop, stride)
    similarities, values = [], []
    for _, _, window in laid:
        outputs, grid = tokens_before(clip, window)
        f, *_, target = vit(guide, window, *stats)
        similarities.append(unit(f) @ unit(f).T)
        values.append(bilinear(project(last, outputs[-1])[2][1:], grid, target))
    mean = torch.stack(similarities).mean()
    patch = image.shape[1] // (len(similarities[0]) and target[0]) if len(laid) == 1 else None
    patch = crop // target[0] if patch is None else patch
    h, w = image.shape[1] // patch, image.shape[2] // patch
    total, count = torch.zeros(h, w, values[0].shape[1]), torch.zeros(h, w, 1)
    for s, v, (top, left, _) in zip(similarities, values, laid, strict=True):
        logits = 3.0 * (s - 1.2 * mean)
        logits[logits < 0] = -torch.inf
        y = last.attn.out_proj(logits.softmax(-1) @ v).reshape(*target, -1)
        rows = slice(top // patch, top // patch + target[0])
        columns = slice(left // patch, left // patch + target[1])
        total[rows, columns] += y
        count[rows, columns] += 1
    return (total / count).flatten(0, 1), (h, w)


def sam_parts(model, image, stats):
    """q, k, v (M, S², d) of SAM's last block, S, valid (hs, ws), and its tables."""
    side = model.config.image_size
    scale = side / max(image.shape[1:])
    size = tuple(int(n * scale + 0.5) for n in image.shape[1:])
    pixels = image * column(stats[1]) + column(stats[0])
    pixels = (pixels - column(IMAGENET[0])) / column(IMAGENET[1])
    pixels = F.interpolate(
        pixels[None], size=size, mode="bilinear", align_corners=False, antialias=True
    )
    pixels = F.pad(pixels, (0, side - size[1], 0, side - size[0]))
    encoder, kept = model.vision_encoder, {}
    attention = encoder.layers[-1].attn
    hook = attention.qkv.register_forward_hook(lambda m, i, o: kept.update(qkv=o))
    encoder(pixels)
    hook.remove()
    n, heads = side // model.config.patch_size, model.config.num_attention_heads
    qkv = kept["qkv"].reshape(n * n, 3, heads, -1).permute(1, 2, 0, 3)
    patch = model.config.patch_size
    return qkv, n, (size[0] // patch, size[1] // patch), (attention.rel_pos_h, attention.rel_pos_w)


def sam_correlation(y, grid, model, image, stats, c=1.2, negative=True):
    """The picture's map (h·w, D) → (hs·ws, D) on SAM's grid, token by token."""
    (q, k, v), n, (hs, ws), (rows, columns) = sam_parts(model, image, stats)
    heads, d = len(q), q.shape[-1]
    valid = [a * n + b for a in range(hs) for b in range(ws)]
    y = bilinear(y, grid, (hs, ws))
    bias = torch.zeros(heads, n * n, n * n)
    for i in range(n * n):
        for j in range(n * n):
            offset = rows[i // n - j // n + n - 1] + columns[i % n - j % n + n - 1]
            bias[:, i, j] = q[:, i] @ offset
    a = (q @ k.transpose(1, 2) / math.sqrt(d) + bias).softmax(-1)[:, valid][:, :, valid]
    own = unit(v[:, valid])
    s = own @ own.transpose(1, 2)
    t = c * s.mean(-1).mean(0)
    if not negative:
        t[t < 0] = 0.6
    t[t > 0.9] = 0.9
    a[s <= t[None, :, None]] = 0
    a = a.mean(0)
    return (a / a.sum(-1, keepdim=True)) @ y, (hs, ws)


# ---- CASS ---------------------------------------------------------------------------------------


def cass(clip, keys, grid_of_guide, window, swapped=True, stretch=True, sigma=5.0):
    """Features (h, w, E) of a window, and its [CLS] (E,).

    Args:
        keys: of the guide's last block, (M, P, d).
    """
    from scipy.optimize import linear_sum_assignment

    outputs, (h, w) = tokens_before(clip, window)
    last = clip.visual.transformer.resblocks[-1]
    heads = last.attn.num_heads

    def split(x):
        return x[1:].reshape(h * w, heads, -1).permute(1, 0, 2)

    _, k, v = (split(t) for t in project(last, outputs[-1]))
    guide = torch.stack([bilinear(own, grid_of_guide, (h, w)) for own in keys])
    guide = (guide - guide.min()) / (guide.max() - guide.min()) * (k.max() - k.min()) + k.min()
    s = k.shape[-1] ** -0.5
    kc, kd = s * k @ k.transpose(1, 2), s * guide @ guide.transpose(1, 2)

    def spectrum(matrix):
        values = torch.linalg.eigvalsh(matrix.double()).flip(-1)[:20]
        values = values / values.norm()
        return values / values.abs().sum()

    distance = torch.tensor([[(spectrum(d) - spectrum(c)).abs().sum() for c in kc] for d in kd])
    rows, columns = linear_sum_assignment(1 - distance.numpy())
    out = torch.zeros(heads, h * w, v.shape[-1])
    omega = reference.gaussian(h, w, sigma)[1:, 1:]
    for i, j in zip(rows, columns, strict=True):
        mine, theirs = (i, j) if swapped else (j, i)
        left, values, right = torch.linalg.svd(kd[theirs].double())
        values = values[:10]
        if stretch:
            low, high = values.min(), values.max()
            values = 0.5 * low + (values - low) / (high - low) * (1.5 * high - 0.5 * low)
        low_rank = (left[:, :10] @ torch.diag(values) @ right[:10]).float()
        low_rank.fill_diagonal_(0)
        own = kc[mine]
        low_rank = (low_rank - low_rank.min()) / (low_rank.max() - low_rank.min())
        low_rank = low_rank * (own.max() - own.min()) + own.min()
        weight = 10 * float(distance[i, j])
        merged = (weight * low_rank + own) / (weight + 1)
        out[mine] = (merged + omega).softmax(-1) @ v[mine]
    y = last.attn.out_proj(out.permute(1, 0, 2).reshape(h * w, -1))
    x = last(outputs[-1][:, None])[0, 0]
    return to_features(clip, y, (h, w)), unit(clip.visual.ln_post(x) @ clip.visual.proj)


def cass_similarities(features, text, cls, g, m, h):
    """(h, w, Q) with moved words and the share of [CLS]."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = (1 - unit(text.double()) @ unit(text.double()).T).clamp_min(0).numpy()
    np.fill_diagonal(distance, 0)
    distance = (distance + distance.T) / 2
    clusters = fcluster(linkage(squareform(distance), "ward"), h, "distance")
    patches, moved = features.flatten(0, 1), text.clone()
    for cluster in set(clusters):
        members = [q for q in range(len(text)) if clusters[q] == cluster]
        best = max(members, key=lambda q: float(text[q] @ cls))
        near = sorted(range(len(patches)), key=lambda p: -float(patches[p] @ text[best]))[:2]
        mean = patches[near].mean(0)
        moved[best] = unit((1 - m) * text[best] + m * mean / mean.norm())
    return (1 - g) * features @ moved.T + g * (text @ cls)


# ---- CorrCLIP -----------------------------------------------------------------------------------


def corrclip(clip, q, k, target, window, regions, tau=4.0, spatial=(6, 7, 8, 9, 10), a=1.0, b=0.5):
    """Features (gh, gw, E) of one window; q, k (P, D) of the guide; regions (H, W)."""
    outputs, grid = tokens_before(clip, window)
    blocks = list(clip.visual.transformer.resblocks)
    last, norm = blocks[-1], clip.visual.ln_post
    d = unit(q + k)
    s = d @ d.T

    def nearest(numbers, size):
        picked = F.interpolate(numbers[None, None].double(), size=size, mode="nearest")
        return picked[0, 0].flatten().long()

    numbers = nearest(regions, target)
    ids = sorted(set(numbers.tolist()))
    if len(ids) > 2:
        rest = ids[1:]
        means = torch.stack([unit(d[numbers == i].mean(0)) for i in rest])
        sims = means @ means.T
        distance = sims.max() - sims
        merged = {}
        for i in range(len(rest)):  # flood fill: DBSCAN with one sample for a core
            if i in merged:
                continue
            waiting, name = [i], 10**6 + i
            while waiting:
                at = waiting.pop()
                if at in merged:
                    continue
                merged[at] = name
                waiting += [j for j in range(len(rest)) if distance[at, j] <= 0.2]
        numbers = torch.tensor(
            [n if n == ids[0] else merged[rest.index(n)] for n in numbers.tolist()]
        )
    first = min(numbers.tolist())
    count = len(numbers)
    allowed = torch.zeros(count, count, dtype=torch.bool)
    for i in range(count):
        for j in range(count):
            outside = numbers[i] == first or numbers[j] == first
            same = numbers[i] == numbers[j] and numbers[i] != first
            allowed[i, j] = same or (bool(outside) and s[i, j] > s.mean())
    attention = (tau * s).masked_fill(~allowed, -torch.inf).softmax(-1)

    def branch(z):
        v = bilinear(project(last, z)[2][1:], grid, target)
        return norm(last.attn.out_proj(attention @ v))

    total = branch(outputs[-1])
    total = total + a * branch(torch.stack([outputs[i] for i in spatial]).mean(0))
    # Semantic branch: a copy of [CLS] for each region in front, a mask in every block.
    on_clip = nearest(numbers.reshape(target), grid)
    names = sorted(set(numbers.tolist()))
    n = len(outputs[0])
    r = len(names)
    x = torch.cat([outputs[0][:1].expand(r, -1), outputs[0]])
    mask = torch.full((r + n, r + n), -torch.inf)
    mask[r:, r:] = 0
    for row, name in enumerate(names):
        mask[row, r] = 0
        mask[row, r + 1 :][on_clip == name] = 0
    for block in blocks:
        y = block.ln_1(x)[:, None]
        x = x + block.attn(y, y, y, need_weights=False, attn_mask=mask)[0][:, 0]
        x = x + block.mlp(block.ln_2(x))
    semantic = x[:r][[names.index(i) for i in numbers.tolist()]]
    total = total + b * norm(semantic)
    return unit(total @ clip.visual.proj).reshape(*target, -1)


# ---- propagation --------------------------------------------------------------------------------


def lposs(similarities, features, places, k=400, gamma=3.0, sigma=0.01, alpha=0.95):
    """The exact solution; every matrix dense."""
    n = len(features)
    f = unit(features.double())
    w = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        inner = f @ f[i]
        for j in inner.topk(min(k, n)).indices.tolist():
            distance = (places[i].double() - places[j].double()).norm()
            w[i, j] = max(float(inner[j]), 0.0) ** gamma * torch.exp(-sigma * distance)
    return solve(w + w.T, similarities, alpha)


def solve(w, y, alpha):
    w = w.clone().fill_diagonal_(0)
    degrees = w.sum(1)
    degrees[degrees == 0] = 1
    w = degrees[:, None] ** -0.5 * w * degrees[None] ** -0.5
    return torch.linalg.solve(torch.eye(len(w), dtype=torch.float64) - alpha * w, y.double())


def conjugate_gradients(system, right, steps):
    """One column, the textbook's way, from 0."""
    x, r = torch.zeros_like(right), right.clone()
    p = r.clone()
    for _ in range(steps):
        q = system @ p
        step = (r @ r) / (p @ q)
        x, new = x + step * p, r - step * q
        p = new + (new @ new) / (r @ r) * p
        r = new
    return x


def lposs_plus(logits, lab, m=6, tau=0.01, alpha=0.95, steps=10):
    """(H, W, Q) after so many steps; lab (H, W, 3)."""
    height, width, queries = logits.shape
    n = height * width
    lab = lab.double() / torch.tensor([100.0, 128.0, 128.0], dtype=torch.float64)
    w = torch.zeros(n, n, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for b in range(max(0, y - m), min(height, y + m + 1)):
                for a in range(max(0, x - m), min(width, x + m + 1)):
                    if (a, b) != (x, y):
                        distance = (lab[y, x] - lab[b, a]).norm()
                        w[y * width + x, b * width + a] = torch.exp(-distance / tau)
    degrees = w.sum(1)
    degrees[degrees == 0] = 1
    system = torch.eye(n, dtype=torch.float64)
    system -= alpha * degrees[:, None] ** -0.5 * w * degrees[None] ** -0.5
    flat = logits.double().flatten(0, 1)
    solved = [conjugate_gradients(system, flat[:, q], steps) for q in range(queries)]
    return torch.stack(solved, 1).reshape(height, width, queries)
