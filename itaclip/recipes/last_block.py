"""Methods that change the last block alone: one description, and a table of its published values.

CLIP, MaskCLIP, SCLIP, ClearCLIP, NACLIP, ITACLIP; and our reading of CLIPSeg (AAAI 2025), whose two
ideas are options here so that they combine with every other method of the table.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .attention import (
    SIMILARITY_TERMS,
    TERMS,
    gaussian_neighbourhood,
    mean_over_blocks,
    sum_of_terms,
)
from .base import Recipe, key
from .patch_tokens import above_mean, cosine_similarity
from .registry import register
from .tower import Reads, Tower


@dataclass(frozen=True, kw_only=True)
class LastBlock(Recipe):
    """A method that changes the last block.

    With attention ``Ā``, the block computes (r: residual kept, f: feed-forward kept)::

        Z_L = r · Z_{L-1} + OutProj(Ā V),    Z_L ← Z_L + f · MLP(LN2(Z_L))
        Ā   = (1 - w) · A_L + w · mean of A_i over the middle layers i
        A_i = Σ over terms of softmax(s · term_i + ω),   s = d^-½, ω only in the last block

    and with our reading of CLIPSeg's modules, both off by default::

        Ā ← (1 - μ) · Ā + μ · C,    C = softmax(g · (Sim - mean Sim)) where Sim is above its mean
        V = (1 - β) · W_v LN1(Z_{L-1}) + β · W_v LN1(mean of Z_i over the deep layers i)

    with Sim the mean over the coherence layers of the patches' cosine similarity, after the image's
    mean patch is taken off.

    Args:
        terms: similarity terms that are summed: ``'qk'``, ``'qq'``, ``'kk'``, ``'vv'``, or
            ``'identity'`` (the map I), or ``'window'`` (softmax of ω alone, NACLIP eq. 14).
        residual: whether the block's input is added to its attention output (r).
        feed_forward: whether the block's MLP is applied (f).
        middle_layers: blocks whose own maps are averaged in; ``'scaled'`` maps the recipe's blocks
            of a 12-block tower to the same relative depth of another tower.
        middle_weight: w, the share of the middle layers' mean (ITACLIP eq. 6: ½).
        gaussian_std: σ of the Gaussian neighbourhood ω in patches (NACLIP eq. 11-15); None = off.
        coherence_layers: middle blocks whose outputs' similarity guides attention.
        coherence_weight: μ, the share of that attention.
        coherence_sharpness: g, an inverse temperature.
        value_layers: deep blocks before the last whose outputs add to the values.
        value_weight: β, their share.
    """

    terms: tuple[str, ...] = key(("qk",), "terms", *TERMS)
    residual: bool = key(True, "flag")
    feed_forward: bool = key(True, "flag")
    middle_layers: tuple[int, ...] = key((), "blocks")
    middle_weight: float = key(0.5, "share")
    gaussian_std: float | None = key(None, "positive or None")
    coherence_layers: tuple[int, ...] = key((), "blocks")
    coherence_weight: float = key(0.5, "share")
    coherence_sharpness: float = key(5.0, "positive")
    value_layers: tuple[int, ...] = key((), "blocks")
    value_weight: float = key(0.3, "share")

    needs_cls = False

    def reads(self, depth: int) -> Reads:
        return Reads(self.middle_layers, (*self.coherence_layers, *self.value_layers))

    def mix(self, tower: Tower, values: Tensor) -> Tensor:
        omega = None
        if self.gaussian_std is not None:
            omega = gaussian_neighbourhood(
                tower.grid, self.gaussian_std, values.device, tower.prefix
            )
            omega = omega.to(values.dtype)
        out = sum_of_terms(self.terms, tower.last, values, omega)
        if self.middle_layers:
            blocks = [tower.projections[i] for i in self.middle_layers]
            fused = mean_over_blocks(self.terms, blocks, values)
            out = torch.lerp(out, fused, self.middle_weight)
        if self.coherence_layers:
            cls, patches = values[:, :, : tower.prefix], values[:, :, tower.prefix :]
            coherent = self._coherence_attention(tower).to(values.dtype) @ patches
            coherent = torch.cat([cls, coherent], dim=2)  # [CLS] keeps to itself
            out = torch.lerp(out, coherent, self.coherence_weight)
        return out

    def _coherence_attention(self, tower: Tower) -> Tensor:
        """C, (B, 1, P, P): attention among patches that are alike in the middle layers."""
        outputs = [tower.outputs[i][:, tower.prefix :] for i in self.coherence_layers]
        similarity = sum(cosine_similarity(o, centred=True) for o in outputs) / len(outputs)
        return above_mean(similarity, self.coherence_sharpness).unsqueeze(1)

    def _values(self, tower: Tower) -> Tensor:
        """V of the last block, (B, M, N, d)."""
        if not self.value_layers:
            return tower.last.v
        deep = sum(tower.outputs[i] for i in self.value_layers) / len(self.value_layers)
        return torch.lerp(tower.last.v, tower.project(deep).v, self.value_weight)

    def tokens(self, tower: Tower) -> Tensor:
        mixed = self.mix(tower, self._values(tower))
        return tower.finish(mixed, self.residual, self.feed_forward)

    def check(self) -> None:
        similarity = any(t in SIMILARITY_TERMS for t in self.terms)
        if "window" in self.terms and self.gaussian_std is None:
            raise InputError(
                "attention: the term 'window' is made of the Gaussian neighbourhood, so "
                "gaussian_std must be a number above 0, but it is None."
            )
        if self.gaussian_std is not None and not similarity and "window" not in self.terms:
            raise InputError(
                f"attention: gaussian_std={self.gaussian_std} has no logits to be added to with "
                f"terms={self.terms}; use a term such as 'kk' or 'window', or set "
                "gaussian_std=None."
            )
        alone = all(t in SIMILARITY_TERMS for t in self.terms)
        if self.middle_layers and self.middle_weight and not alone:
            raise InputError(
                f"attention: middle_layers={self.middle_layers} have no maps of their own for "
                f"terms={self.terms}; use only terms out of {', '.join(SIMILARITY_TERMS)}, or set "
                "middle_layers=()."
            )

    def effective(self) -> "LastBlock":
        names = ("middle", "coherence", "value")
        idle = [name for name in names if getattr(self, f"{name}_weight") == 0]
        changes: dict[str, Any] = {f"{name}_layers": () for name in idle}
        return replace(self, **changes)


_NACLIP = "Hajimiri et al., NACLIP, WACV 2025"
_ITACLIP = "Aydın et al., ITACLIP, CVPRW 2025, eq. 3-7"
_REDUCED: dict[str, Any] = dict(residual=False, feed_forward=False)
_SIGMA: dict[str, Any] = dict(gaussian_std=5.0)
_TABLE_6: dict[str, Any] = dict(exact="eq. 11-15, Table 6")

_PUBLISHED: dict[str, dict[str, Any]] = {
    "clip": dict(source="Radford et al., CLIP, ICML 2021", exact="equals openai-clip's own tokens"),
    "maskclip": dict(
        terms=("identity",),
        **_REDUCED,
        source="Zhou et al., MaskCLIP, ECCV 2022, in the reduced form of later papers",
        exact="attention = identity",
        left_out="key smoothing and prompt denoising",
    ),
    "maskclip_original": dict(
        terms=("identity",),
        source="Zhou et al., MaskCLIP, ECCV 2022 (residual and MLP kept)",
        exact="attention = identity",
        left_out="key smoothing and prompt denoising",
    ),
    "sclip": dict(
        terms=("qq", "kk"),
        source="Wang et al., SCLIP, ECCV 2024",
        exact="q qᵀ + k kᵀ, residual and MLP kept",
    ),
    "clearclip": dict(
        terms=("qq",),
        **_REDUCED,
        source="Lan et al., ClearCLIP, ECCV 2024",
        exact="q qᵀ, neither residual nor MLP",
    ),
    "naclip": dict(terms=("kk",), **_REDUCED, **_SIGMA, **_TABLE_6, source=_NACLIP),
    "naclip_vanilla": dict(
        terms=("kk",), **_SIGMA, **_TABLE_6, source=_NACLIP + ", 'Vanilla' architecture"
    ),
    "naclip_gav": dict(
        terms=("qk",),
        **_REDUCED,
        **_SIGMA,
        **_TABLE_6,
        source=_NACLIP + ", Gaussian-augmented vanilla attention",
    ),
    "naclip_n_only": dict(
        terms=("window",),
        **_REDUCED,
        **_SIGMA,
        **_TABLE_6,
        left_out="the scale that the authors' code adds",
        source=_NACLIP + ", eq. 14 without the scale that the authors' code adds",
    ),
    "itaclip": dict(
        terms=("qq", "kk"),
        feed_forward=False,
        middle_layers=(7, 8, 10),
        source=_ITACLIP,
        exact="eq. 3-7",
    ),
    "itaclip_gaussian": dict(
        terms=("qq", "kk"),
        feed_forward=False,
        middle_layers=(7, 8, 10),
        **_SIGMA,
        source=_ITACLIP + ", with NACLIP's neighbourhood in the last block",
        left_out="no publication: it combines two papers",
    ),
    "clipseg": dict(
        terms=("kk",),
        **_REDUCED,
        coherence_layers=(6, 7, 8),
        value_layers=(9, 10),
        source="our reading of Liu et al., CLIPSeg, AAAI 2025, from its abstract",
        left_out="all constants: nothing but the abstract is known",
    ),
}

for _name, _values in _PUBLISHED.items():
    register(_name, **_values)(LastBlock)
