"""The method as published code computes it: plain, correct, slow. The yardstick of the benchmark.

Written anew from the papers' formulas and from descriptions of the public programs; no code is
theirs. It shares nothing with ``itaclip`` but the settings and the names of the stages, and gives
the same class scores. What makes it slow is meant:

* texts class by class, 80 prompts each, every prompt padded to 77 tokens;
* windows one by one, and every view of a window in a pass of its own;
* blocks 1 … L-1 as openai-clip runs them; a block whose maps are read computes its q, k, v a second
  time, and its N×N maps are stored;
* the logits of a window upsampled, padded to the whole image, summed, divided, upsampled again;
* PAMR on all queries at once: in every iteration one-channel convolutions fetch the neighbours,
  which are stacked, multiplied with the weights and summed;
* queries grouped to classes by a one-hot product of C×Q×H×W elements.

Shapes: N tokens, D width, M heads, d head width; h, w patches; H, W pixels; Q queries; C classes;
P neighbours. One image at a time.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itaclip.runtime.stages import stage


class PublishedStyle:
    """Segments single images as published code does.

    Args:
        clip: ``clip.model.CLIP`` in fp32.
        segmentor: an ``ITACLIPSegmentor``, whose settings and text features are taken over.
    """

    def __init__(self, clip: nn.Module, segmentor: nn.Module) -> None:
        self.visual = clip.visual.float().eval()
        self.recipe = segmentor.image_encoder.recipe
        self.text_features = segmentor.text_features
        self.query_classes = torch.tensor(segmentor.vocabulary.query_classes)
        settings = segmentor.settings
        self.lam = settings.image_engineering_weight
        self.layout = settings.windows
        self.logit_scale, self.prob_thd = settings.logit_scale, settings.prob_thd
        self.area_thd, self.label_closing = settings.area_thd, settings.label_closing
        self.pamr = settings.pamr

    @torch.no_grad()
    def segment(
        self, image: Tensor, output_size: tuple[int, int], max_windows: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """One CLIP-normalised image to class scores and labels.

        Args:
            image: (3, H', W').
            output_size: (H, W).
            max_windows: only so many windows are computed, for estimates of the time; the result
                is then meaningless.

        Returns:
            Scores (C, H, W) and labels (H, W).
        """
        logits = self._slide(image, max_windows)
        with stage("upsampling"):
            logits = _upsample(logits, output_size)
        if self.pamr is not None and self.pamr.num_iter:
            with stage("refinement"):
                logits = pamr(logits, _upsample(image, output_size), *self.pamr)
        with stage("post-processing"):
            return self._postprocess(logits)

    def windows(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """(top, bottom, left, right) of every window; the last ones are moved inside."""
        if self.layout.whole:
            return [(0, height, 0, width)]
        (crop_h, crop_w), (step_h, step_w) = self.layout.crop_size, self.layout.stride
        boxes = []
        for i in range(max(height - crop_h + step_h - 1, 0) // step_h + 1):
            for j in range(max(width - crop_w + step_w - 1, 0) // step_w + 1):
                bottom, right = min(i * step_h + crop_h, height), min(j * step_w + crop_w, width)
                top, left = max(bottom - crop_h, 0), max(right - crop_w, 0)
                boxes.append((top, bottom, left, right))
        return boxes

    def _slide(self, image: Tensor, max_windows: int | None) -> Tensor:
        """Query logits (Q, H', W') of the whole image."""
        _, height, width = image.shape
        total = image.new_zeros(len(self.text_features), height, width)
        count = image.new_zeros(1, height, width)
        for top, bottom, left, right in self.windows(height, width)[:max_windows]:
            logits = self._window_logits(image[:, top:bottom, left:right])
            with stage("upsampling"):
                total += F.pad(logits, (left, width - right, top, height - bottom))
                count[:, top:bottom, left:right] += 1
        with stage("upsampling"):
            return total / count.clamp_(min=1)

    def _window_logits(self, window: Tensor) -> Tensor:
        """(3, H, W) → (Q, H, W)."""
        size = tuple(window.shape[1:])
        features = self._features(window)
        if self.lam is None:
            with stage("upsampling"):
                return self._logits(features, size)
        first = [features]
        for view in (gray, blur):
            with stage("views"):
                changed = view(window)
            first.append(self._features(changed))
        second = []
        for axis in (1, 2):
            with stage("views"):
                changed = window.flip(axis)
            features = self._features(changed)
            with stage("upsampling"):
                second.append(self._logits(features, size).flip(axis))
        with stage("upsampling"):
            logits = self._logits(torch.stack(first).mean(0), size)
            return self.lam * logits + (1 - self.lam) * torch.stack(second).mean(0)

    def _logits(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return _upsample((features @ self.text_features.T).permute(2, 0, 1), size)

    def _features(self, image: Tensor) -> Tensor:
        """(3, H, W) → normalised patch features (h, w, E)."""
        with stage("encoder"):
            visual, recipe = self.visual, self.recipe
            patch = visual.conv1.kernel_size[0]
            grid = image.shape[1] // patch, image.shape[2] // patch
            x = visual.conv1(image.unsqueeze(0)).flatten(2)[0].T  # h·w, D
            x = torch.cat([visual.class_embedding.unsqueeze(0), x])
            x = visual.ln_pre(x + position_embedding(visual.positional_embedding, grid))
            blocks, middle = list(visual.transformer.resblocks), []
            for number, block in enumerate(blocks[:-1], start=1):
                if number in recipe.middle_layers:
                    middle.append(attention_map(block, x, recipe.terms, None)[0])
                x = block(x.unsqueeze(1)).squeeze(1)
            last, std = blocks[-1], recipe.gaussian_std
            omega = None if std is None else gaussian(grid, std).to(x)
            attention, v = attention_map(last, x, recipe.terms, omega)  # M, N, N; M, N, d
            if middle:
                weight = recipe.middle_weight
                attention = (1 - weight) * attention + weight * torch.stack(middle).mean(0)
            out = last.attn.out_proj((attention @ v).transpose(0, 1).flatten(1))  # N, D
            x = x + out if recipe.residual else out
            if recipe.feed_forward:
                x = x + last.mlp(last.ln_2(x))
            features = (visual.ln_post(x) @ visual.proj)[1:]
            return (features / features.norm(dim=-1, keepdim=True)).unflatten(0, grid)

    def _postprocess(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(Q, H, W) → scores (C, H, W), labels (H, W)."""
        scores = (logits * self.logit_scale).softmax(dim=0)
        one_hot = F.one_hot(self.query_classes.to(logits.device)).T  # C, Q
        if one_hot.shape[0] != one_hot.shape[1]:
            scores = (scores.unsqueeze(0) * one_hot[:, :, None, None]).max(dim=1).values
        if self.area_thd is not None:
            winner = F.one_hot(scores.argmax(0), len(scores)).permute(2, 0, 1)
            area = winner[1:].sum((1, 2)).float()
            scores[1:] *= (area > self.area_thd * area.sum())[:, None, None]
        labels = scores.argmax(0)
        labels[scores.max(0).values < self.prob_thd] = 0
        if self.label_closing:
            square = np.ones((self.label_closing, self.label_closing), np.uint8)
            picture = labels.cpu().numpy().astype(np.uint16)
            closed = cv2.morphologyEx(picture, cv2.MORPH_CLOSE, square).astype(np.int64)
            labels = torch.from_numpy(closed).to(labels.device)
        return scores, labels


@torch.no_grad()
def text_features(clip: nn.Module, texts: Sequence[str], templates: Sequence[str]) -> Tensor:
    """(len(texts), E): every text's prompts are encoded as a batch of their own, 77 tokens each."""
    from itaclip.clip_model.tokenizers import openai_tokenizer

    device, features = clip.text_projection.device, []
    for text in texts:
        tokens = torch.zeros(len(templates), clip.context_length, dtype=torch.long, device=device)
        for row, template in zip(tokens, templates, strict=True):
            numbers = openai_tokenizer()(template.format(text))
            row[: len(numbers)] = torch.tensor(numbers)
        own = clip.encode_text(tokens)
        own = (own / own.norm(dim=-1, keepdim=True)).mean(0)
        features.append(own / own.norm())
    return torch.stack(features)


def attention_map(
    block: nn.Module, x: Tensor, terms: Sequence[str], omega: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The sum over terms of softmax(s · term + ω), (M, N, N), and the values (M, N, d)."""
    attn = block.attn
    projected = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = (
        part.unflatten(1, (attn.num_heads, -1)).transpose(0, 1) for part in projected.chunk(3, -1)
    )
    named = {"q": q, "k": k, "v": v}
    maps = []
    for term in terms:
        if term == "identity":
            maps.append(torch.eye(len(x), device=x.device).expand(len(q), -1, -1))
        elif term == "window":
            maps.append(omega.softmax(-1).expand(len(q), -1, -1))
        else:
            logits = q.shape[-1] ** -0.5 * named[term[0]] @ named[term[1]].transpose(1, 2)
            maps.append((logits if omega is None else logits + omega).softmax(-1))
    return torch.stack(maps).sum(0), v


def gaussian(grid: tuple[int, int], std: float) -> Tensor:
    """exp(-distance² / 2σ²) between patches; zero for [CLS]; (N, N)."""
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    at = torch.stack([rows.flatten(), columns.flatten()], dim=1).double()  # h·w, 2
    squared = (at[:, None] - at[None]).square().sum(-1)
    return F.pad(torch.exp(-squared / (2 * std**2)), (1, 0, 1, 0)).float()


def position_embedding(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, D), bicubic from the trained grid with the scale factor (n + 0.1) / trained side."""
    side = round((len(positions) - 1) ** 0.5)
    if grid == (side, side):
        return positions
    table = positions[1:].unflatten(0, (side, side)).permute(2, 0, 1).unsqueeze(0)
    factors = tuple((n + 0.1) / side for n in grid)
    table = F.interpolate(table, scale_factor=factors, mode="bicubic", align_corners=False)[0]
    return torch.cat([positions[:1], table.flatten(1).T])


def gray(window: Tensor) -> Tensor:
    """0.2989 R + 0.587 G + 0.114 B in three channels; (3, H, W)."""
    luma = window.new_tensor([0.2989, 0.587, 0.114])
    return (luma[:, None, None] * window).sum(0, keepdim=True).repeat(3, 1, 1)


def blur(window: Tensor) -> Tensor:
    """Gaussian blur as one 11×11 convolution per channel, σ 5, reflect padding; (3, H, W)."""
    line = torch.exp(-torch.arange(-5.0, 6.0, device=window.device).square() / 50)
    kernel = torch.outer(line, line) / line.sum().square()
    padded = F.pad(window.unsqueeze(0), (5, 5, 5, 5), mode="reflect")
    return F.conv2d(padded, kernel.expand(3, 1, 11, 11), groups=3)[0]


def pamr(logits: Tensor, guide: Tensor, num_iter: int, dilations: Sequence[int]) -> Tensor:
    """PAMR of all queries at once: (Q, H, W) logits, (3, H, W) guide."""
    deviation = _neighbours(guide, dilations, centre=True).std(dim=1, keepdim=True)  # 3, 1, H, W
    difference = (_neighbours(guide, dilations) - guide.unsqueeze(1)).abs()  # 3, P, H, W
    weights = (-difference / (1e-8 + 0.1 * deviation)).mean(0).softmax(dim=0)  # P, H, W
    for _ in range(num_iter):
        logits = (_neighbours(logits, dilations) * weights).sum(dim=1)
    return logits


def _neighbours(x: Tensor, dilations: Sequence[int], centre: bool = False) -> Tensor:
    """(K, H, W) → (K, P, H, W): each kernel has a single one and so copies one neighbour."""
    kernels = torch.eye(9, device=x.device).reshape(9, 1, 3, 3)
    if not centre:
        kernels = torch.cat([kernels[:4], kernels[5:]])
    stacks = []
    for dilation in dilations:
        padded = F.pad(x.unsqueeze(1), (dilation,) * 4, mode="replicate")
        stacks.append(F.conv2d(padded, kernels, dilation=dilation))
    return torch.cat(stacks, dim=1)


def _upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x.unsqueeze(0), size=size, mode="bilinear", align_corners=False)[0]
