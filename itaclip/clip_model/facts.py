"""What a CLIP is beside its weights: the facts that no tensor tells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError

ACTIVATIONS = ("quick_gelu", "gelu", "gelu_tanh")
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
OPENAI_VOCABULARY = 49408
_DEEP = 24  # blocks


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A loaded CLIP's description.

    Attributes:
        source: what messages call it: the name or path it was loaded by.
        family: ``'clip'`` (its [CLS] is projected into the words' space) or ``'siglip'`` (no [CLS]:
            an attention-pooling head reads the patches).
        activation, text_activation: of the blocks' MLPs, out of :data:`ACTIVATIONS`.
        vision_heads, text_heads: attention heads of a block.
        mean, std: of RGB on the scale 0 to 1, by which images are normalised.
        vision_eps, text_eps: of the layer norms.
        image_size: side in pixels that the tower was trained with.
        patch_size: side of a patch in pixels.
        vision_width, vision_layers, text_width, text_layers, embed_dim, vocabulary_size: sizes.
        layer_scale: whether the blocks had LayerScale; it is folded into their output matrices.
        context_length: tokens that the text tower reads.
        causal: whether its tokens see only what comes before.
        text_reads: token that becomes the text's feature: ``'end'``, or ``'last'`` of a text that
            is padded to the context's length.
        end_token: its number; None: the highest of a text is its end.
        tokenizer: ``'openai'``, or the folder of the model's own.
        cleaning: of a text before the tokenizer reads it: ``'none'``, ``'whitespace'``, or
            ``'canonicalize'`` (lower case, no punctuation).
        logit_scale, logit_bias: factor and offset on the cosine that the model was trained with
            (information: segmentation has its own); None where the weights have none.
    """

    source: str
    family: str = "clip"
    activation: str
    text_activation: str
    vision_heads: int
    text_heads: int
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    vision_eps: float = 1e-5
    text_eps: float = 1e-5
    image_size: int = 0
    patch_size: int = 0
    vision_width: int = 0
    vision_layers: int = 0
    vision_hidden: int = 0
    text_width: int = 0
    text_layers: int = 0
    text_hidden: int = 0
    embed_dim: int = 0
    vocabulary_size: int = OPENAI_VOCABULARY
    layer_scale: bool = False
    context_length: int = 77
    causal: bool = True
    text_reads: str = "end"
    end_token: int | None = None
    tokenizer: str = "openai"
    cleaning: str = "none"
    logit_scale: float | None = None
    logit_bias: float | None = None

    @property
    def has_cls(self) -> bool:
        """Whether the vision tower has a [CLS] token, which is token 0."""
        return self.family == "clip"

    @property
    def is_deep(self) -> bool:
        return self.vision_layers >= _DEEP

    def depth_warning(self) -> str | None:
        """What to know before a recipe of CLIP alone is run on a deep tower."""
        if not self.is_deep:
            return None
        return (
            f"{self.source}: its image tower has {self.vision_layers} blocks. On towers of 24 "
            "blocks and more, recipes that use CLIP alone lose much of what they reach with 12 "
            "(published averages for L/14: CLIP 5.2, MaskCLIP 13.9, ResCLIP 39.1, SC-CLIP 45.2; "
            "ITACLIP on VOC: 53.3, where B/16 has 67.9); take a tower of 12 blocks, or a recipe "
            "with a guide."
        )

    def text_facts(self) -> str:
        """What the text tower's features depend on beside its weights and its tokenizer."""
        names = ("text_activation", "text_heads", "text_eps", "causal", "text_reads", "cleaning")
        return repr([(name, getattr(self, name)) for name in names])


# ---- clip_config --------------------------------------------------------------------------------

_REQUIRED = ("activation", "vision_heads", "text_heads")
_OPTIONAL = ("mean", "std")


def parse_clip_config(clip_config: Mapping | None) -> dict[str, Any] | None:
    """The checked values of the config's key ``clip_config``; None where there is none.

    Raises:
        InputError: an unknown key, or a value that cannot be.
    """
    if clip_config is None:
        return None
    if not isinstance(clip_config, Mapping):
        raise InputError(f"clip_config: expected None or a dict, but got {clip_config!r}.")
    config = dict(clip_config)
    for key in config:
        if key not in (*_REQUIRED, *_OPTIONAL):
            raise InputError(
                f"clip_config: unknown key {key!r}; expected {', '.join((*_REQUIRED, *_OPTIONAL))}."
            )
    if "activation" in config and config["activation"] not in ACTIVATIONS:
        raise InputError(
            f"clip_config.activation: expected {', '.join(map(repr, ACTIVATIONS))}, but got "
            f"{config['activation']!r}."
        )
    for key in ("vision_heads", "text_heads"):
        value = config.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"clip_config.{key}: expected an integer from 1, but got {value!r}.")
    for key in _OPTIONAL:
        if key in config:
            config[key] = colours(config[key], f"clip_config.{key}", positive=key == "std")
    return config


def missing_facts(clip_config: Mapping | None) -> list[str]:
    """The keys of ``clip_config`` that weights alone need and that are not given."""
    return [key for key in _REQUIRED if key not in (clip_config or {})]


def colours(value: Any, key: str, positive: bool) -> tuple[float, float, float]:
    """Three numbers from 0 to 1, one a channel of RGB (InputError otherwise)."""
    right = (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) == 3
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        and all(math.isfinite(v) and 0 <= v <= 1 and (v > 0 or not positive) for v in value)
    )
    if not right:
        raise InputError(
            f"{key}: expected three numbers on the scale 0 to 1 (red, green, blue), but got "
            f"{value!r}."
        )
    return tuple(float(v) for v in value)


def check_told(told: Mapping[str, Any], clip_config: Mapping | None, source: str) -> None:
    """Refuses a ``clip_config`` that contradicts what the model says of itself."""
    for key, value in (clip_config or {}).items():
        if key in told and told[key] != value:
            raise InputError(
                f"clip_config.{key}: is {value!r}, but {source} says {told[key]!r}; leave "
                "clip_config out, since this model describes itself."
            )
