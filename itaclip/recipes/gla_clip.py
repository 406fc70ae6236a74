"""GLA-CLIP (CVPR 2026, arXiv 2603.23030): patches look into all windows of the picture."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import key
from .guided import Guided, guide_of, row_blocks, unit_tokens
from .registry import register
from .tower import Tower


@register(
    "gla_clip",
    source="GLA-CLIP, CVPR 2026 (arXiv 2603.23030)",
    exact="keys and values of all windows; β, γ and ρ = 0.55 as the authors' script runs them",
    left_out="proxies are normalised after every step, and |P_i| is that of the last one",
    depth=None,
)
@dataclass(frozen=True, kw_only=True)
class GLACLIP(Guided):
    """GLA-CLIP: ProxyCLIP with keys and values of all L windows, and proxies for queries.

    A patch's proxy p_i starts at its own x_i and is moved T times to the mean of the patches P_i
    that are more alike than ρ; then::

        A_ij = γ_i (p_i · x_j - β max(0, mean_j p_i · x_j)),   entries below min(row maximum, 0) out
        β = 1 + 0.3 ln(1 + L),   γ_i = 1 + 30 / |P_i|

    Args:
        steps: T.
        threshold: ρ; 0.55 is what the authors' script runs, 0.6 what it names.
        window_factor: 0.3.
        size_factor: 30.
        pad: windows are padded with zeros to multiples of so many pixels; 1 is off.
    """

    steps: int = key(2, "count or 0")
    threshold: float = key(0.55, "number")
    window_factor: float = key(0.3, "not negative")
    size_factor: float = key(30.0, "not negative")
    pad: int = key(56, "count")

    joint = True

    @property
    def window_multiple(self) -> int:
        return self.pad

    def spread(self, tower: Tower, values: Tensor) -> Tensor:
        x = unit_tokens(guide_of(tower)).flatten(0, 1)  # L·P, G
        flat = values.flatten(0, 1)
        shift = 1 + self.window_factor * math.log(1 + len(values))
        out = torch.empty_like(flat)
        for rows in row_blocks(len(x), len(x), x.device):
            proxy, size = x[rows], 1
            for _ in range(self.steps):
                alike = proxy @ x.T > self.threshold
                size = alike.sum(-1, keepdim=True)
                moved = F.normalize(alike.to(x.dtype) @ x, dim=-1)
                proxy = torch.where(size > 0, moved, proxy)
            cosine = proxy @ x.T
            mean = cosine.mean(-1, keepdim=True).clamp_min(0)
            size = torch.as_tensor(size, device=x.device).clamp_min(1)
            logits = (1 + self.size_factor / size) * (cosine - shift * mean)
            least = logits.amax(-1, keepdim=True).clamp_max(0)
            weights = logits.masked_fill_(logits < least, -torch.inf).softmax(-1)
            out[rows] = weights.to(flat.dtype) @ flat
        return out.view_as(values)
