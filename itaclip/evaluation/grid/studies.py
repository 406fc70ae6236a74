"""Studies as data: named rows, and perhaps columns, of changes to a config.

A change is ``'model.attention.terms': ('qq',)``: a key with dots below ``model``,
``test_dataloader`` or ``test_evaluator``, and its new value, which replaces the old one as a whole.
A value may depend on the config: then it is a function of a :class:`Setting`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import InputError
from .published import PUBLISHED, Series


@dataclass(frozen=True)
class Setting:
    """What a value may depend on: the config as it stands, and the model built from it.

    Attributes:
        model: the config's ``model``.
        depth: number of blocks of the image encoder; None for models from elsewhere.
        crop: (H, W) of the sliding window; None if images are segmented whole.
        middle_layers: blocks that the config's recipe reads besides the last.
    """

    model: Mapping[str, Any]
    depth: int | None = None
    crop: tuple[int, int] | None = None
    middle_layers: tuple[int, ...] = ()


Value = Any | Callable[[Setting], Any]
Changes = Mapping[str, Value]


@dataclass(frozen=True)
class Study:
    """One table: every row with every column.

    Attributes:
        title: a phrase.
        rows: label → changes. Labels that are all numbers become the axis of a plot.
        columns: label → changes, made after the row's.
        base: changes of every cell, made first.
        row_name, column_name: what the labels are of.
        published: the papers' figures for the same rows.
    """

    title: str
    rows: Mapping[str, Changes]
    columns: Mapping[str, Changes] = field(default_factory=lambda: {"": {}})
    base: Changes = field(default_factory=dict)
    row_name: str = ""
    column_name: str = ""
    published: Sequence[Series] = ()


# ---- values that depend on the config -----------------------------------------------------------


def crop_share(parts: int) -> Callable[[Setting], tuple[int, int]]:
    """The crop's sides divided by ``parts``, at least a pixel."""

    def value(setting: Setting) -> tuple[int, int]:
        if setting.crop is None:
            raise InputError("images are segmented whole, so there is no stride to vary")
        return tuple(max(1, side // parts) for side in setting.crop)

    return value


def blocks(*numbers: int) -> Callable[[Setting], tuple[int, ...]]:
    """Blocks of a tower of 12; in another, those at the same relative depth."""

    def value(setting: Setting) -> tuple[int, ...]:
        depth = setting.depth or 12
        return tuple(sorted({round(number * depth / 12) for number in numbers}))

    return value


def own(key: str, otherwise: Any) -> Callable[[Setting], Any]:
    """The config's own value of a key of the model, or another one where it is off."""
    return lambda setting: setting.model.get(key) or otherwise


def with_texts(weight: float | None = None) -> Callable[[Setting], float]:
    """α, or the config's own; refuses a config without auxiliary texts."""

    def value(setting: Setting) -> float:
        chosen = weight or setting.model.get("aux_text_weight")
        if not setting.model.get("auxiliary_text_path") or not chosen:
            raise InputError(
                "the config has no auxiliary texts; set model.auxiliary_text_path and "
                "model.aux_text_weight"
            )
        return chosen

    return value


# ---- the papers' studies ------------------------------------------------------------------------

LAMBDA = 0.75  # λ where the config has image engineering off: the paper's most frequent value
_PAMR_OFF = {"model.pamr": None}
_PAMR_ON = {"model.pamr": own("pamr", dict(num_iter=10, dilations=(8, 16)))}
_PAMR_COLUMNS = {"without": _PAMR_OFF, "with": _PAMR_ON}
_NO_MODULES = {"model.image_engineering_weight": None, "model.aux_text_weight": 0.0}


def _recipe(name: str, **changes: Any) -> Changes:
    return {"model.attention": dict(recipe=name, **changes)}


def _terms(*terms: str) -> Changes:
    return {"model.attention.terms": terms}


STUDIES: dict[str, Study] = {
    "terms": Study(
        "Attention terms of the recipe (ITACLIP)",
        {
            "q-k": _terms("qk"),
            "q-q": _terms("qq"),
            "k-k": _terms("kk"),
            "v-v": _terms("vv"),
            "q-q + k-k": _terms("qq", "kk"),
            "q-q + v-v": _terms("qq", "vv"),
            "q-q + k-k + v-v": _terms("qq", "kk", "vv"),
        },
        row_name="terms",
    ),
    "feed_forward": Study(
        "The last block's feed-forward part (ITACLIP)",
        {
            "kept": {"model.attention.feed_forward": True},
            "removed": {"model.attention.feed_forward": False},
        },
        row_name="feed-forward",
    ),
    "middle_layers": Study(
        "Middle blocks whose attention maps are averaged in, without PAMR (ITACLIP)",
        {
            "none": {"model.attention.middle_layers": ()},
            **{
                ", ".join(map(str, numbers)): {"model.attention.middle_layers": blocks(*numbers)}
                for numbers in ((7,), (8,), (7, 8), (7, 8, 10), (7, 8, 9, 10))
            },
        },
        base=_PAMR_OFF,
        row_name="middle blocks",
    ),
    "pamr": Study("Refinement (ITACLIP)", _PAMR_COLUMNS, row_name="PAMR"),
    "modules": Study(
        "Auxiliary texts and image engineering, without PAMR (ITACLIP)",
        {
            "none": _NO_MODULES,
            "+ text": {**_NO_MODULES, "model.aux_text_weight": with_texts()},
            "+ text + image engineering": {
                "model.aux_text_weight": with_texts(),
                "model.image_engineering_weight": own("image_engineering_weight", LAMBDA),
            },
        },
        base=_PAMR_OFF,
        row_name="modules",
    ),
    "stride": Study(
        "Stride of the windows (ITACLIP)",
        {
            "crop": {"model.test_cfg.stride": crop_share(1)},
            **{
                f"crop / {parts}": {"model.test_cfg.stride": crop_share(parts)}
                for parts in (2, 4, 8)
            },
        },
        row_name="stride",
    ),
    "weights": Study(
        "λ of image engineering and α of auxiliary texts, without PAMR (ITACLIP)",
        {str(lam): {"model.image_engineering_weight": lam} for lam in (0.5, 0.6, 0.75)},
        {str(alpha): {"model.aux_text_weight": with_texts(alpha)} for alpha in (0.1, 0.15, 0.2)},
        base=_PAMR_OFF,
        row_name="λ",
        column_name="α",
    ),
    "sigma": Study(
        "σ of the Gaussian neighbourhood in patches (NACLIP, Fig. 4)",
        {str(std): {"model.attention.gaussian_std": float(std)} for std in range(1, 11)},
        _PAMR_COLUMNS,
        base={**_NO_MODULES, **_recipe("naclip")},
        row_name="σ",
        column_name="PAMR",
    ),
    "naclip_attention": Study(
        "Spatial consistency and similarity, residual and feed-forward kept (NACLIP)",
        {
            "q-k": _recipe("clip"),
            "N-Only": _recipe("naclip_n_only", residual=True, feed_forward=True),
            "GAV": _recipe("naclip_gav", residual=True, feed_forward=True),
            "k-k": _recipe("naclip_vanilla"),
        },
        _PAMR_COLUMNS,
        base=_NO_MODULES,
        row_name="attention",
        column_name="PAMR",
    ),
    "naclip_architecture": Study(
        "The last block with (Vanilla) and without (Reduced) residual and feed-forward (NACLIP)",
        {
            "Vanilla": _recipe("clip"),
            "Reduced": _recipe("clip", residual=False, feed_forward=False),
            "Vanilla, k-k + ω": _recipe("naclip_vanilla"),
            "Reduced, k-k + ω": _recipe("naclip"),
        },
        _PAMR_COLUMNS,
        base=_NO_MODULES,
        row_name="architecture",
        column_name="PAMR",
    ),
}
STUDIES = {
    name: Study(**{**vars(study), "published": PUBLISHED.get(name, ())})
    for name, study in STUDIES.items()
}


def backbone_studies(models: Sequence[str]) -> dict[str, Study]:
    """The study of backbones: the config's recipe, and NACLIP, with every model.

    A recipe's middle blocks are taken at the same relative depth in towers of other depths.
    """

    def scaled(setting: Setting) -> Any:
        attention = setting.model.get("attention", "itaclip")
        given = dict(attention) if isinstance(attention, Mapping) else {"recipe": attention}
        if setting.middle_layers:
            given.setdefault("middle_layers", "scaled")
        return given

    names = {model: {"model.clip_model": model} for model in models}
    return {
        "backbone": Study(
            "Backbone, with the config's recipe (ITACLIP)",
            {name: {**change, "model.attention": scaled} for name, change in names.items()},
            row_name="clip_model",
            published=PUBLISHED["backbone"],
        ),
        "naclip_backbone": Study(
            "Backbone, with NACLIP",
            names,
            base={**_NO_MODULES, **_PAMR_ON, **_recipe("naclip")},
            row_name="clip_model",
            published=PUBLISHED["naclip_backbone"],
        ),
    }
