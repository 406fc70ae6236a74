"""A slow, obvious reference: every formula of the method written out, nothing shared with itaclip.

Attention maps are explicit N×N matrices; windows, views, queries and pixels are handled one by one
or as the published description says. Weights come from ``clip.model.CLIP`` of openai-clip.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.utils import get_predefined_templates
from mmseg.utils.tokenizer import tokenize

# name: terms, residual, feed-forward, middle layers, sigma of the Gaussian
TABLE = {
    "clip": (["qk"], 1, 1, [], None),
    "maskclip": (["identity"], 0, 0, [], None),
    "maskclip_original": (["identity"], 1, 1, [], None),
    "sclip": (["qq", "kk"], 1, 1, [], None),
    "clearclip": (["qq"], 0, 0, [], None),
    "naclip": (["kk"], 0, 0, [], 5.0),
    "naclip_vanilla": (["kk"], 1, 1, [], 5.0),
    "naclip_gav": (["qk"], 0, 0, [], 5.0),
    "naclip_n_only": (["window"], 0, 0, [], 5.0),
    "itaclip": (["qq", "kk"], 1, 0, [7, 8, 10], None),
    "itaclip_gaussian": (["qq", "kk"], 1, 0, [7, 8, 10], 5.0),
}


def gaussian(h, w, sigma):
    """omega over all tokens, patch pair by patch pair."""
    omega = torch.zeros(1 + h * w, 1 + h * w, dtype=torch.float64)
    for p in range(h * w):
        for m in range(h * w):
            distance = (p // w - m // w) ** 2 + (p % w - m % w) ** 2
            omega[1 + p, 1 + m] = math.exp(-distance / (2 * sigma**2))
    return omega.float()


def attention_map(block, x, terms, omega=None):
    """Sum over terms of softmax(s · term + omega); x (N, D) → (heads, N, N)."""
    n, width = x.shape
    heads = block.attn.num_heads
    qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    q, k, v = (t.reshape(n, heads, -1).permute(1, 0, 2) for t in qkv.chunk(3, dim=-1))
    tensors = {"q": q, "k": k, "v": v}
    total = torch.zeros(heads, n, n)
    for term in terms:
        if term == "identity":
            total += torch.eye(n)
        elif term == "window":
            total += omega.softmax(-1)
        else:
            left, right = tensors[term[0]], tensors[term[1]]
            logits = (width // heads) ** -0.5 * left @ right.transpose(1, 2)
            total += (logits + (0 if omega is None else omega)).softmax(-1)
    return total, v


def position_embedding(visual, h, w):
    table = visual.positional_embedding
    side = int(math.sqrt(len(table) - 1))
    if (h, w) == (side, side):
        return table
    grid = table[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((h + 0.1) / side, (w + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
    assert grid.shape[-2:] == (h, w)
    return torch.cat([table[:1], grid.permute(0, 2, 3, 1).reshape(h * w, -1)])


def dense_features(clip, image, recipe):
    """image (3, H, W) → patch features (h, w, E), L2-normalised."""
    terms, residual, feed_forward, middle, sigma = recipe
    visual = clip.visual
    patch = visual.conv1.kernel_size[0]
    h, w = image.shape[1] // patch, image.shape[2] // patch
    patches = visual.conv1(image[None])[0].flatten(1).T
    x = torch.cat([visual.class_embedding[None], patches]) + position_embedding(visual, h, w)
    x = visual.ln_pre(x)
    blocks = list(visual.transformer.resblocks)
    middle_maps = []
    for number, block in enumerate(blocks[:-1], start=1):
        if number in middle:
            middle_maps.append(attention_map(block, x, terms)[0])
        x = block(x[:, None])[:, 0]
    last = blocks[-1]
    omega = None if sigma is None else gaussian(h, w, sigma)
    attention, v = attention_map(last, x, terms, omega)
    if middle_maps:
        attention = 0.5 * attention + 0.5 * torch.stack(middle_maps).mean(0)
    out = (attention @ v).permute(1, 0, 2).reshape(len(x), -1)
    out = last.attn.out_proj(out)
    x = residual * x + out
    if feed_forward:
        x = x + last.mlp(last.ln_2(x))
    features = (visual.ln_post(x) @ visual.proj)[1:]
    features = features / features.norm(dim=-1, keepdim=True)
    return features.reshape(h, w, -1)


def text_features(clip, texts):
    templates = get_predefined_templates("imagenet")
    features = []
    for text in texts:
        tokens = torch.as_tensor(np.stack([tokenize(t.format(text)) for t in templates])).long()
        own = clip.encode_text(tokens.reshape(len(templates), -1))
        own = own / own.norm(dim=-1, keepdim=True)
        own = own.mean(0)
        features.append(own / own.norm())
    return torch.stack(features)


def blended_text(clip, class_names, aux, alpha):
    """class_names: list of lists; aux: list with None for classes without a text."""
    rows, classes = [], []
    for index, names in enumerate(class_names):
        for name in names:
            feature = text_features(clip, [name])[0]
            if aux[index] is not None:
                feature = (1 - alpha) * feature + alpha * text_features(clip, [aux[index]])[0]
            rows.append(feature)
            classes.append(index)
    return torch.stack(rows), classes


def gray(x):
    y = 0.2989 * x[0] + 0.587 * x[1] + 0.114 * x[2]
    return torch.stack([y, y, y])


def blur(x):
    at = torch.arange(-5, 6, dtype=torch.float32)
    line = torch.exp(-0.5 * (at / 5) ** 2)
    line = line / line.sum()
    kernel = torch.outer(line, line)[None, None].expand(3, 1, 11, 11)
    padded = F.pad(x[None], (5, 5, 5, 5), mode="reflect")
    return F.conv2d(padded, kernel, groups=3)[0]


def upsample(x, size):
    return F.interpolate(x[None], size=size, mode="bilinear", align_corners=False)[0]


def window_logits(clip, window, text, recipe, lam):
    """(3, H, W) → (Q, H, W), the views one by one."""
    size = window.shape[1:]

    def logits(features):
        return upsample((features @ text.T).permute(2, 0, 1), size)

    features = dense_features(clip, window, recipe)
    if lam is None:
        return logits(features)
    first = [features] + [dense_features(clip, view(window), recipe) for view in (gray, blur)]
    first = logits(torch.stack(first).mean(0))
    second = torch.zeros_like(first)
    for axis in (1, 2):
        second += logits(dense_features(clip, window.flip(axis), recipe)).flip(axis) / 2
    return lam * first + (1 - lam) * second


def slide_logits(clip, image, text, recipe, lam, crop, stride):
    """crop None: whole image. Returns (Q, H, W) at the image's size."""
    if crop is None:
        return window_logits(clip, image, text, recipe, lam)
    _, height, width = image.shape
    rows = max(height - crop[0] + stride[0] - 1, 0) // stride[0] + 1
    columns = max(width - crop[1] + stride[1] - 1, 0) // stride[1] + 1
    total, count = torch.zeros(len(text), height, width), torch.zeros(height, width)
    for i in range(rows):
        for j in range(columns):
            bottom, right = (
                min(i * stride[0] + crop[0], height),
                min(j * stride[1] + crop[1], width),
            )
            top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
            window = image[:, top:bottom, left:right]
            total[:, top:bottom, left:right] += window_logits(clip, window, text, recipe, lam)
            count[top:bottom, left:right] += 1
    return total / count


def pamr(logits, guide, num_iter=10, dilations=(8, 16)):
    """Pixel-adaptive refinement with explicit neighbour stacks."""
    _, height, width = guide.shape

    def stack(x, centre):
        shifted = []
        for d in dilations:
            padded = F.pad(x[None], (d, d, d, d), mode="replicate")[0]
            for dy in (0, d, 2 * d):
                for dx in (0, d, 2 * d):
                    if centre or (dy, dx) != (d, d):
                        shifted.append(padded[:, dy : dy + height, dx : dx + width])
        return torch.stack(shifted)  # neighbours, channels, H, W

    std = stack(guide, centre=True).std(dim=0, unbiased=True)
    difference = (stack(guide, centre=False) - guide).abs()
    weights = (-difference / (1e-8 + 0.1 * std)).mean(dim=1).softmax(dim=0)
    for _ in range(num_iter):
        logits = (stack(logits, centre=False) * weights[:, None]).sum(0)
    return logits


def class_scores(logits, classes, scale, area_thd=None):
    probabilities = (logits * scale).softmax(0)
    classes = torch.tensor(classes)
    scores = torch.stack(
        [probabilities[classes == c].max(0).values for c in range(int(classes.max()) + 1)]
    )
    if area_thd is not None:
        winner = scores.argmax(0)
        total = sum(int((winner == c).sum()) for c in range(1, len(scores)))
        for c in range(1, len(scores)):
            if int((winner == c).sum()) <= area_thd * total:
                scores[c] = 0
    return scores


def closing(labels, size):
    """Dilation then erosion of the indices, pixel by pixel; the outside is ignored."""
    labels, radius = labels.numpy(), size // 2

    def sweep(x, reduce):
        out = np.empty_like(x)
        for y in range(x.shape[0]):
            for z in range(x.shape[1]):
                square = x[max(y - radius, 0) : y + radius + 1, max(z - radius, 0) : z + radius + 1]
                out[y, z] = reduce(square)
        return out

    return torch.from_numpy(sweep(sweep(labels, np.max), np.min))


def segment(
    clip, image, output_size, text, classes, recipe, *, lam=None, crop=(224, 224), stride=(28, 28),
    scale=40, prob_thd=0.0, area_thd=None, label_closing=0, pamr_args=None,
):  # fmt: skip
    """The whole method for one CLIP-normalised image (3, H, W): (scores (C, H, W), labels)."""
    with torch.no_grad():
        logits = slide_logits(clip, image, text, recipe, lam, crop, stride)
        logits = upsample(logits, output_size)
        if pamr_args is not None:
            logits = pamr(logits, upsample(image, output_size), **pamr_args)
        scores = class_scores(logits, classes, scale, area_thd)
    labels = scores.argmax(0)
    labels[scores.max(0).values < prob_thd] = 0
    if label_closing:
        labels = closing(labels, label_closing)
    return scores, labels
