"""ProxyCLIP (Lan et al., ECCV 2024): a second backbone says where to look."""

from dataclasses import dataclass

from torch import Tensor

from .base import key
from .guided import Guided, guide_of, mean_similarity, proxy_attention, unit_tokens
from .registry import register
from .tower import Tower


@register(
    "proxyclip",
    source="Lan et al., ProxyCLIP, ECCV 2024",
    exact="eq. 5-7, padding to multiples of 56 pixels, one mean for every window",
    left_out="the mean over a batch, with which results depend on it; windows need not be square",
    depth=None,
)
@dataclass(frozen=True, kw_only=True)
class ProxyCLIP(Guided):
    """ProxyCLIP: A = softmax(γ (S - β·mean S)), S the cosine of the guide's patch tokens.

    Args:
        shift: β.
        sharpness: γ.
        mean: whose S is averaged: ``'window'``, as the published code does with one window at a
            time, or ``'picture'``, all windows of the picture.
        pad: windows are padded with zeros to multiples of so many pixels; 1 is off.
    """

    shift: float = key(1.2, "number")
    sharpness: float = key(3.0, "positive")
    mean: str = key("window", "choice", "window", "picture")
    pad: int = key(56, "count")

    @property
    def joint(self) -> bool:
        return self.mean == "picture"

    @property
    def window_multiple(self) -> int:
        return self.pad

    def spread(self, tower: Tower, values: Tensor) -> Tensor:
        unit = unit_tokens(guide_of(tower))
        mean = mean_similarity(unit)
        if self.mean == "picture":
            mean = mean.mean().expand(len(mean))
        return proxy_attention(unit, values, mean, self.shift, self.sharpness)
