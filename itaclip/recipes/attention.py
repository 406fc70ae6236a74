"""Attention as the methods use it: similarity terms of a block's own queries, keys and values.

Every term is one fused attention, so no N×N map is stored (Ā V is linear in the maps).

Shapes: B batch, M heads, N = 1 + h·w tokens (token 0 is [CLS]), d head width, c width of values.
Height comes before width; blocks are counted from 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SIMILARITY_TERMS = ("qk", "qq", "kk", "vv")
TERMS = (*SIMILARITY_TERMS, "identity", "window")


class Projections(NamedTuple):
    """Queries, keys and values of one block, each (B, M, N, d)."""

    q: Tensor
    k: Tensor
    v: Tensor

    def patches(self, prefix: int = 1) -> "Projections":
        """Without [CLS]: each (B, M, N - 1, d); ``prefix`` tokens go."""
        return Projections(*(t[:, :, prefix:] for t in self))


def attend(
    term: str, projections: Projections, values: Tensor, bias: Tensor | None = None
) -> Tensor:
    """softmax(s · term + bias) · values, with s = d^-½.

    Args:
        term: ``'qk'``, ``'qq'``, ``'kk'`` or ``'vv'``; ``'identity'`` (the map I); ``'window'``
            (softmax of the bias alone, NACLIP eq. 14).
        projections: of the block that the term is about.
        values: (B, M, N, c).
        bias: added to the logits, broadcast to (B, M, N, N).

    Returns:
        (B, M, N, c); for ``'identity'``, ``values`` itself.
    """
    if term == "identity":
        return values
    if term == "window":
        assert bias is not None
        return bias.float().softmax(-1).to(values.dtype) @ values
    left, right = (getattr(projections, letter) for letter in term)
    return F.scaled_dot_product_attention(left, right, values, attn_mask=bias)


def sum_of_terms(
    terms: Sequence[str], projections: Projections, values: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Σ over terms of softmax(s · term + bias) · values, (B, M, N, c)."""
    total = attend(terms[0], projections, values, bias)
    for term in terms[1:]:
        total = total + attend(term, projections, values, bias)
    return total


def mean_over_blocks(terms: Sequence[str], blocks: Sequence[Projections], values: Tensor) -> Tensor:
    """Mean over blocks of :func:`sum_of_terms`, with the same values, (B, M, N, c)."""
    total = sum_of_terms(terms, blocks[0], values)
    for projections in blocks[1:]:
        total = total + sum_of_terms(terms, projections, values)
    return total / len(blocks)


def gaussian_neighbourhood(
    grid: tuple[int, int], std: float, device: torch.device | None = None, prefix: int = 1
) -> Tensor:
    """The logits' bias ω of NACLIP (eq. 11-13): an unnormalised Gaussian around every patch.

    ω[p, m] = exp(-‖p - m‖² / 2σ²) for patches; the row and the column of [CLS] are 0. The kernel
    separates, so ω is the Kronecker product of a table over rows and one over columns.

    Args:
        grid: (h, w) patches.
        std: σ in patches.
        prefix: p, tokens before the patches.

    Returns:
        (N, N) float32 with N = p + h·w, values in [0, 1].
    """

    def table(size: int) -> Tensor:
        at = torch.arange(size, dtype=torch.float32, device=device)
        return torch.exp(-((at[:, None] - at[None, :]) ** 2) / (2 * std**2))

    return F.pad(torch.kron(table(grid[0]), table(grid[1])), (prefix, 0, prefix, 0))


def self_self(tokens: Tensor, values: Tensor, scale: Tensor, iterations: int = 1) -> Tensor:
    """GEM's self-self attention (Bousselham et al., CVPR 2024, eq. 3-5).

    ``iterations`` times t ← softmax(scale · t̂ t̂ᵀ) t̂ with t̂ = t / ‖t‖; then softmax(scale · t̂ t̂ᵀ)
    values.

    Args:
        tokens: (B, M, N, d), a block's queries, keys or values.
        values: (B, M, N, c).
        scale: (B, 1, 1, 1), the inverse temperature of each image.
        iterations: clustering steps.
    """
    for _ in range(iterations):
        unit = F.normalize(tokens, dim=-1)
        tokens = F.scaled_dot_product_attention(unit * scale, unit, unit, scale=1.0)
    unit = F.normalize(tokens, dim=-1)
    return F.scaled_dot_product_attention(unit * scale, unit, values, scale=1.0)


def procrustes_rotation(q: Tensor, k: Tensor, prefix: int = 1) -> tuple[Tensor, Tensor]:
    """The rotation of keys onto queries (PEARL, CVPR 2026), head by head.

    With means weighted by w_i ∝ ‖q_i‖ over patches ([CLS]: 0) taken off q and k, R is the polar
    factor of k_cᵀ q_c: among rotations it minimises ‖k_c R - q_c‖. Its null space (fewer tokens
    than d) is mapped to 0.

    Args:
        q, k: (B, M, N, d).
        prefix: tokens before the patches ([CLS]).

    Returns:
        R (B, M, d, d) and the centred keys k_c (B, M, N, d), fp32.
    """
    q, k = q.float(), k.float()
    weights = q.norm(dim=-1, keepdim=True)  # B, M, N, 1
    weights = F.pad(weights[:, :, prefix:], (0, 0, prefix, 0))
    weights = weights / weights.sum(2, keepdim=True)
    centred_q, centred_k = (t - (weights * t).sum(2, keepdim=True) for t in (q, k))
    left, singular, right = torch.linalg.svd((centred_k.transpose(-2, -1) @ centred_q).double())
    smallest = 1e-6 * singular[..., :1]  # below is rounding of the fp32 product
    left = left * (singular > smallest).unsqueeze(-2)
    return (left @ right).float(), centred_k
