"""Class pruning: classes that are not in the picture take no part in it.

A class that takes no part loses its queries before the softmax, so that the others' scores still
sum to one. A background class always takes part. Rules:

* ``max_score`` (MaskCLIP's prompt denoising): classes whose best pixel has a score of
  ``threshold`` at least.
* ``presence`` (after S2C2Seg, CVPR 2026): between ``at_least`` and ``at_most`` classes, by what the
  picture's own [CLS] token and its best pixel say.
* ``oracle``: the classes of the ground truth; an upper bound, never comparable with other figures.

Shapes: H, W pixels; Q queries; C classes (last). Queries of a class stand side by side.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .checks import integer, number
from .errors import InputError

_STRIP_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class MaxScore:
    """Keeps classes whose largest score in the picture is ``threshold`` at least."""

    threshold: float = 0.5

    def __post_init__(self) -> None:
        number(self.threshold, "class_pruning.threshold", 0, 1)

    def kept(self, maxima: Tensor) -> Tensor:
        """Which classes stay, (C,) bool, by their largest score (C,); one at least."""
        return _not_empty(maxima >= self.threshold, maxima)


@dataclass(frozen=True)
class Presence:
    """Keeps the classes that :func:`presence` finds: above ``threshold``, within two numbers.

    Args:
        at_least, at_most: numbers of classes, background aside.
        threshold: of the score.
    """

    at_least: int = 6
    at_most: int = 20
    threshold: float = 0.3

    def __post_init__(self) -> None:
        integer(self.at_least, "class_pruning.at_least", 1)
        integer(self.at_most, "class_pruning.at_most", self.at_least)
        number(self.threshold, "class_pruning.threshold", 0, 1)

    def kept(self, scores: Tensor, background: bool) -> Tensor:
        """Which classes stay, (C,) bool, by their :func:`presence` (C,)."""
        others = scores[int(background) :]
        count = int((others > self.threshold).sum())
        count = min(max(count, self.at_least), self.at_most, len(others))
        kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        best = torch.argsort(-others, stable=True)[:count]
        kept[best + int(background)] = True
        return kept


@dataclass(frozen=True)
class Oracle:
    """Keeps the classes of the ground truth."""

    def kept(self, truth: Tensor, classes: int) -> Tensor:
        """Which classes stay, (C,) bool, by the labels (H, W) of the ground truth."""
        present = truth.unique().long()
        present = present[(present >= 0) & (present < classes)]
        kept = torch.zeros(classes, dtype=torch.bool, device=truth.device)
        kept[present] = True
        return kept


Pruning = MaxScore | Presence | Oracle
RULES: dict[str, type[Pruning]] = {"max_score": MaxScore, "presence": Presence, "oracle": Oracle}


def presence(global_cosines: Tensor, best_cosines: Tensor, logit_scale: float) -> Tensor:
    """How likely each class is in the picture (C,), after S2C2Seg.

    With g, s the cosines of the picture's [CLS] and of its best pixel, brought to 0 … 1 over the
    classes, ĝ, ŝ the same as vectors of length 1, p the softmax of g's cosines and H̄ its entropy
    divided by ln C:

        α = σ(ĝ·ŝ − ½) ;  score = α g + (1 − α) s + p (1 − H̄)

    The publication leaves open how its scores are brought together; this is this project's reading.

    Args:
        global_cosines, best_cosines: (C,).
        logit_scale: before the softmax.
    """

    def unit(x: Tensor) -> Tensor:
        return (x - x.min()) / (x.max() - x.min()).clamp(min=1e-12)

    def length_one(x: Tensor) -> Tensor:
        return x / x.norm().clamp(min=1e-12)

    g, s = unit(global_cosines.double()), unit(best_cosines.double())
    alpha = torch.sigmoid(length_one(g) @ length_one(s) - 0.5)
    p = (logit_scale * global_cosines.double()).softmax(0)
    entropy = -(p * p.clamp(min=1e-300).log()).sum() / max(math.log(len(p)), 1e-12)
    return alpha * g + (1 - alpha) * s + p * (1 - entropy).clamp(min=0)


def by_class(values: Tensor, query_classes: Sequence[int]) -> Tensor:
    """The best of each class's queries: (Q,) → (C,)."""
    index = torch.tensor(query_classes, device=values.device)
    out = values.new_full((query_classes[-1] + 1,), -math.inf)
    return out.scatter_reduce(0, index, values, "amax")


def score_maxima(logits: Tensor, logit_scale: float) -> Tensor:
    """The largest softmax probability of every query in the picture: (H, W, Q) → (Q,)."""
    best = logits.new_zeros(logits.shape[-1])
    step = max(1, _STRIP_ELEMENTS // max(1, logits[0].numel()))
    for top in range(0, len(logits), step):
        probs = (logits[top : top + step] * logit_scale).softmax(dim=-1)
        best = torch.maximum(best, probs.flatten(0, 1).amax(0))
    return best


def leave_out(logits: Tensor, kept: Tensor, query_classes: Sequence[int]) -> Tensor:
    """Takes classes out of logits (…, Q), overwritten: their queries never win.

    Args:
        kept: (C,) bool.
    """
    gone = ~kept[torch.tensor(query_classes, device=kept.device)]
    return logits.masked_fill_(gone.to(logits.device), -math.inf)


def _not_empty(kept: Tensor, values: Tensor) -> Tensor:
    """The best class stays where none would."""
    if not kept.any():
        kept[values.argmax()] = True
    return kept


def with_background(kept: Tensor, background: bool) -> Tensor:
    """A background class (0) always stays."""
    if background:
        kept[0] = True
    return kept


def parse_pruning(value: Mapping | Pruning | None) -> Pruning | None:
    """Validates the key ``class_pruning``; None stays None.

    Raises:
        InputError: an unknown rule or key, or a value out of range.
    """
    if value is None or isinstance(value, Pruning):
        return value
    names = ", ".join(f"'{name}'" for name in RULES)
    given = dict(value) if isinstance(value, Mapping) else {}
    rule = given.pop("rule", None)
    kind = RULES.get(rule) if isinstance(rule, str) else None
    if kind is None:
        raise InputError(
            f"class_pruning: expected None or dict(rule=…) with a rule out of {names}, but got "
            f"{value!r}."
        )
    keys = [field.name for field in fields(kind)]
    for key in given:
        if key not in keys:
            raise InputError(
                f"class_pruning.{key}: rule {rule!r} has no such key; expected "
                f"{', '.join(keys) if keys else 'none'}."
            )
    return kind(**given)
