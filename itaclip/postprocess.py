"""From query logits to class scores and a label map (METHODS 1.4).

Shapes: H, W pixels; Q queries; C classes (last). Queries of a class stand side by side.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .runtime.stages import stage

# Maps are handled in strips of about this many elements, so that no second full-size map is made:
# on a CPU what caches hold, on a GPU what makes a launch worth while.
_STRIP_ELEMENTS = dict(cpu=1 << 18, cuda=1 << 24)


def class_scores(logits: Tensor, query_classes: Sequence[int], logit_scale: float) -> Tensor:
    """Softmax over queries, then the maximum over each class's names.

    Args:
        logits: (H, W, Q) cosine similarities; overwritten.
        query_classes: (Q,) class of every query, ascending, every class at least once.
        logit_scale: factor before the softmax.

    Returns:
        (H, W, C) in [0, 1]; the same storage as ``logits`` when every class has one name.
    """
    height, width, queries = logits.shape
    classes = query_classes[-1] + 1
    starts = [i for i in range(queries) if i == 0 or query_classes[i] != query_classes[i - 1]]
    stops = [*starts[1:], queries]
    flat = logits.view(height * width, queries)
    out = flat if classes == queries else flat.new_empty(height * width, classes)
    first = torch.tensor(starts, device=logits.device)
    several = [c for c in range(classes) if stops[c] - starts[c] > 1]
    step = _strip_length(logits, queries)
    for at in range(0, height * width, step):
        strip = (flat[at : at + step] * logit_scale).softmax(dim=-1)
        if classes == queries:
            out[at : at + step] = strip
            continue
        own = out[at : at + step]
        torch.index_select(strip, 1, first, out=own)
        for c in several:
            torch.amax(strip[:, starts[c] : stops[c]], dim=1, out=own[:, c])
    return out.view(height, width, classes)


def class_areas(scores: Tensor) -> Tensor:
    """Number of pixels (H, W, C) → (C,) where each class has the best score."""
    classes = scores.shape[-1]
    areas = torch.zeros(classes, dtype=torch.int64, device=scores.device)
    for strip in _rows(scores):
        areas += strip.argmax(dim=-1).flatten().bincount(minlength=classes)
    return areas


def small_classes(areas: Tensor, area_thd: float) -> Tensor:
    """Classes that the area rule leaves out (SCLIP's code): indices.

    A class goes when its area is at most ``area_thd`` times the area of all classes but 0.
    """
    areas = areas.float()
    small = areas <= area_thd * areas[1:].sum()
    small[0] = False
    return small.nonzero().flatten()


def label_map(scores: Tensor, prob_thd: float, margin_thd: float = 0) -> Tensor:
    """The class of the best score, the first of equals; class 0 where the model abstains.

    Args:
        scores: (H, W, C).
        prob_thd: it abstains where the best score is below.
        margin_thd: it abstains where the best score is ahead of the second by less.

    Returns:
        (H, W) int64.
    """
    labels = scores.new_empty(scores.shape[:2], dtype=torch.int64)
    rows = _rows(scores)
    for strip, own in zip(rows, labels.split(len(rows[0])), strict=True):
        best, own[:] = strip.max(dim=-1)
        own.masked_fill_(best < prob_thd, 0)
        if margin_thd > 0 and scores.shape[-1] > 1:
            first, second = strip.topk(2, dim=-1).values.unbind(-1)
            own.masked_fill_(first - second < margin_thd, 0)
    return labels


def labels_of_strips(
    strips: Callable[[], Iterable[Tensor]],
    prob_thd: float,
    area_thd: float | None,
    margin_thd: float = 0,
) -> Tensor:
    """The labels of scores that are never held as a whole: area rule, then :func:`label_map`.

    With the area rule, the strips are made twice where a class is left out.

    Args:
        strips: makes the scores (rows, W, C), from top to bottom; they are overwritten.
        prob_thd, margin_thd: as for :func:`label_map`.
        area_thd: as for :func:`small_classes`; None = off.

    Returns:
        (H, W) int64.
    """

    def sweep(left_out: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
        parts, areas = [], 0
        for scores in strips():
            with stage("post-processing"):
                if left_out is not None:
                    scores.index_fill_(-1, left_out, 0)
                elif area_thd is not None:
                    areas = areas + class_areas(scores)
                parts.append(label_map(scores, prob_thd, margin_thd))
            del scores
        return torch.cat(parts), areas

    labels, areas = sweep()
    if area_thd is not None and len(left_out := small_classes(areas, area_thd)):
        labels, _ = sweep(left_out)
    return labels


def close_labels(labels: Tensor, size: int) -> Tensor:
    """Grey-scale closing of class indices (H, W): maximum, then minimum, over size×size squares.

    Pixels outside the image are ignored. The result depends on the order of the classes; it is part
    of ITACLIP's published figures.
    """

    def dilate(x: Tensor) -> Tensor:
        return F.max_pool2d(x, kernel_size=size, stride=1, padding=size // 2)

    height, width = labels.shape
    reach = 2 * (size // 2)
    step = max(_strip_length(labels, width), reach, 1)
    closed = torch.empty_like(labels)
    for top in range(0, height, step):
        first, last = max(0, top - reach), top + step + reach
        # fp32 holds integers below 2^24 exactly; pooling pads with -inf.
        strip = -dilate(-dilate(labels[None, first:last].float()))
        own = closed[top : top + step]
        own.copy_(strip[0, top - first : top - first + len(own)])
    return closed


def _strip_length(tensor: Tensor, each: int) -> int:
    """How many pieces of ``each`` elements make a strip."""
    limit = _STRIP_ELEMENTS["cpu" if tensor.device.type == "cpu" else "cuda"]
    return max(1, limit // max(1, each))


def _rows(scores: Tensor) -> tuple[Tensor, ...]:
    """(H, W, C) in strips of rows."""
    return scores.split(_strip_length(scores, scores[0].numel()))
