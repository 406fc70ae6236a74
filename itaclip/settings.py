"""What may differ between segmentors that share their weights, frozen and validated."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from .checks import flag, integer, number
from .errors import InputError
from .propagation import Propagation, parse_propagation
from .pruning import Oracle, Pruning, parse_pruning
from .refinement import PAMR, parse_pamr
from .regions import Regions, parse_regions
from .sliding_window import Windows, parse_test_cfg
from .views import View, make_views


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of a segmentor that are neither weights nor words nor a recipe.

    Values are checked and brought into one form when settings are made, so that equal settings are
    equal. A further key is a field here, its check below, and an argument of the segmentor.

    Args:
        test_cfg: ``dict(mode='slide', crop_size=…, stride=…)`` or ``dict(mode='whole')``.
        image_engineering_weight: λ, the share of the first category of views; None = off.
        aux_text_weight: α, the share of the auxiliary text (ITACLIP eq. 9).
        logit_scale: factor on the cosine similarities before the softmax.
        prob_thd: pixels whose best score is below become class 0.
        margin_thd: so do pixels whose best score is ahead of the second class's by less; 0 = off.
        area_thd: classes with at most this share of the area of classes 1… go; None = off.
        label_closing: side of the closing of the label map in pixels, odd; 0 = off.
        pamr: ``dict(num_iter=10, dilations=(8, 16))``; None = off.
        propagation: ``'lposs'``, ``'lposs_plus'``, ``'pearl'`` or ``dict(method=…, …)``; see
            :mod:`itaclip.propagation`; None = off.
        regions: one label for a region, ``dict(source='slic', rule='vote')``; None = off.
        class_pruning: which classes take part, ``dict(rule='max_score')``; None = off, all.
        window_batch: windows in one batch; None fits the device.
        return_scores: False leaves ``seg_logits`` out and makes labels in strips, which bounds the
            memory of large images and vocabularies. The rules ``mean`` and ``sam_refine`` of
            ``regions`` and ``max_score`` and ``presence`` of ``class_pruning`` need all scores at
            once all the same.

    Raises:
        InputError: any value that cannot be used, naming the key.
    """

    # The types are those after the checks; given may be what the keys of a config hold.
    test_cfg: Windows = field(default_factory=Windows)
    image_engineering_weight: float | None = None
    aux_text_weight: float = 0.0
    logit_scale: float = 40
    prob_thd: float = 0.0
    margin_thd: float = 0.0
    area_thd: float | None = None
    label_closing: int = 0
    pamr: PAMR | None = None
    propagation: Propagation | None = None
    regions: Regions | None = None
    class_pruning: Pruning | None = None
    window_batch: int | None = None
    return_scores: bool = True

    def __post_init__(self) -> None:
        lam, alpha = self.image_engineering_weight, self.aux_text_weight
        closing = integer(self.label_closing, "label_closing", what="0 (off) or an odd number")
        if closing and closing % 2 == 0:
            raise InputError(
                f"label_closing: expected 0 (off) or an odd number of pixels, got {closing!r}."
            )
        checked = dict(
            test_cfg=parse_test_cfg(self.test_cfg),
            image_engineering_weight=number(
                lam, "image_engineering_weight", high=1, optional=True, what="a number (λ)"
            ),
            aux_text_weight=number(alpha, "aux_text_weight", high=1, what="a number (α)"),
            logit_scale=number(self.logit_scale, "logit_scale", high=1e6, above=True),
            prob_thd=number(self.prob_thd, "prob_thd", high=1),
            margin_thd=number(self.margin_thd, "margin_thd", high=1),
            area_thd=number(self.area_thd, "area_thd", high=1, optional=True),
            label_closing=closing,
            pamr=parse_pamr(self.pamr),
            propagation=parse_propagation(self.propagation),
            regions=parse_regions(self.regions),
            class_pruning=parse_pruning(self.class_pruning),
            window_batch=integer(self.window_batch, "window_batch", 1, optional=True),
            return_scores=flag(self.return_scores, "return_scores"),
        )
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def windows(self) -> Windows:
        """``test_cfg``, by what it is."""
        return self.test_cfg

    @cached_property
    def views(self) -> tuple[View, ...]:
        """The views of every window for λ, the original alone where it is off."""
        return make_views(self.image_engineering_weight)

    @property
    def needs_all_scores(self) -> bool:
        """Whether a rule looks at all scores of an image at once."""
        pooled = self.regions is not None and self.regions.rule != "vote"
        return pooled or not isinstance(self.class_pruning, Oracle | None)

    def changed(self, changes: Mapping[str, Any]) -> "Settings":
        """Settings with other values for some keys.

        Raises:
            InputError: an unknown key, or a value that cannot be used.
        """
        known = [f.name for f in fields(self)]
        unknown = [key for key in changes if key not in known]
        if unknown:
            raise InputError(f"{unknown[0]}: no such setting; expected one of {', '.join(known)}.")
        return replace(self, **changes) if changes else self
