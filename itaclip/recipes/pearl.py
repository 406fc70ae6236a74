"""PEARL (CVPR 2026): Procrustes alignment of keys with queries."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import procrustes_rotation
from .base import Recipe, key
from .registry import register
from .tower import Tower


@register(
    "pearl",
    source="PEARL, CVPR 2026",
    exact="Procrustes alignment; its second part is propagation='pearl'",
    left_out="weights enter the means alone",
)
@dataclass(frozen=True, kw_only=True)
class PEARL(Recipe):
    """PEARL's attention: softmax(s · q (k R)ᵀ + a · s · k_c k_cᵀ), neither residual nor MLP.

    R is the rotation of the centred keys k_c onto the centred queries. The method's second part
    is a propagation over pixels: ``propagation='pearl'``.

    Args:
        key_weight: a.
    """

    key_weight: float = key(0.08, "not negative")

    needs_cls = False

    def mix(self, tower: Tower, values: Tensor) -> Tensor:
        q, k, _ = tower.last
        rotation, centred = procrustes_rotation(q, k, tower.prefix)
        centred = centred * self.key_weight**0.5
        # Both products are one, of twice the width.
        left = torch.cat([q.float(), centred], dim=-1)
        right = torch.cat([k.float() @ rotation, centred], dim=-1)
        scale = q.shape[-1] ** -0.5
        return F.scaled_dot_product_attention(
            left.to(values.dtype), right.to(values.dtype), values, scale=scale
        )

    def tokens(self, tower: Tower) -> Tensor:
        mixed = self.mix(tower, tower.last.v)
        return tower.finish(mixed, residual=False, feed_forward=False)
