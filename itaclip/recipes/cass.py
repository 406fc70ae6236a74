"""CASS (CVPR 2025): the guide's spectrum in CLIP's attention, and words that follow the picture.

Shapes: B windows, M heads, P = h·w patches of CLIP, d head width, Q queries, E embedding.
"""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..guide import Guide, GuideReads
from .attention import gaussian_neighbourhood
from .base import key
from .guided import Guided, guide_of, project_out, resize_grid
from .registry import register
from .tower import Tower

_EIGENVALUES, _RANK = 20, 10
# The published code turns CLIP's normalisation back with these, and cuts to steps of 1/255.
_PUBLISHED_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.255))


@register(
    "cass",
    source="Kim et al., CASS, CVPR 2025, with the values for VOC21",
    exact="matching of heads with the swapped indices of the code, spectrum, words by clusters",
    left_out="the low rank is exact, where the code draws random vectors; resizing to a square",
    depth=None,
)
@dataclass(frozen=True, kw_only=True)
class CASS(Guided):
    """CASS: M_i = (10 w K̃ + K^c_i) / (10 w + 1), A_i = softmax(M_i + ω), head by head.

    K^c = s k kᵀ of CLIP's keys; K̃ of the guide's, of rank 10, with its singular values stretched,
    its diagonal 0, brought to the range of K^c. Heads are paired by their spectra (Hungarian
    algorithm on 1 - W, which pairs the most different), w = W of the pair. The words: in each
    cluster of names the one most like [CLS] moves to the two patches most like it; [CLS] itself
    has a share in all similarities.

    Args:
        gaussian_std: σ of NACLIP's neighbourhood ω.
        stretch: singular values from [min, max] to [0.5 min, 1.5 max] (not for VOC20, Cityscapes).
        swapped: pairs as the published code reads them, with the two networks' heads exchanged.
        published_colours: the colour shift with which the published code shows the guide windows.
        global_weight: g, the share of [CLS].
        patch_weight: m, the share of the patches in a moved word.
        cluster_distance: h, where the clustering of names is cut.
        cls: ``'picture'``: [CLS] of the whole picture; ``'window'``: of each window (Cityscapes).
    """

    gaussian_std: float = key(5.0, "positive")
    stretch: bool = key(True, "flag")
    swapped: bool = key(True, "flag")
    published_colours: bool = key(True, "flag")
    global_weight: float = key(0.1, "share")
    patch_weight: float = key(0.03, "share")
    cluster_distance: float = key(0.1, "not negative")
    cls: str = key("picture", "choice", "picture", "window")

    @property
    def guide_reads(self) -> GuideReads:
        colours = _PUBLISHED_COLOURS if self.published_colours else None
        return GuideReads(("k",), square=True, colours=colours)

    @property
    def reads_cls(self) -> str:
        return self.cls

    def check_guide(self, guide: Guide, heads: int) -> None:
        if guide.heads != heads:
            raise InputError(
                f"guide: the recipe 'cass' pairs heads, but CLIP has {heads} and the guide "
                f"{guide.heads}; take a guide with as many."
            )

    def output_grid(self, tower: Tower) -> tuple[int, int]:
        return tower.grid

    def _maps(self, tower: Tower) -> Tensor:
        """A, (B, M, P, P)."""
        keys = tower.last.k[:, :, 1:].float()
        seen = guide_of(tower)
        assert seen.k is not None
        guide = seen.k.float()  # B, M, Pg, d
        heads = guide.shape[1]
        moved = resize_grid(guide.transpose(1, 2).flatten(2), seen.grid, tower.grid)
        guide = moved.unflatten(2, (heads, -1)).transpose(1, 2)
        omega = gaussian_neighbourhood(tower.grid, self.gaussian_std, keys.device)[1:, 1:]
        maps = [self._map(own, other) for own, other in zip(keys, guide, strict=True)]
        return (torch.stack(maps) + omega).softmax(-1)

    def _map(self, keys: Tensor, guide: Tensor) -> Tensor:
        """M of one window, (M, P, P), from keys (M, P, d) of both."""
        low, high = keys.amin(), keys.amax()
        bottom, top = guide.amin(), guide.amax()
        guide = (guide - bottom) / (top - bottom).clamp_min(1e-12) * (high - low) + low
        scale = keys.shape[-1] ** -0.5
        own = scale * keys @ keys.transpose(1, 2)
        distance = spectral_distance(guide, keys)  # heads of the guide × heads of CLIP
        rows, columns = match_heads(1 - distance)
        merged = torch.empty_like(own)
        for i, j in zip(rows, columns, strict=True):
            mine, theirs = (i, j) if self.swapped else (j, i)
            weight = 10 * distance[i, j]
            other = low_rank(guide[theirs], scale, self.stretch)
            other.diagonal().zero_()
            other = to_range(other, own[mine])
            merged[mine] = (weight * other + own[mine]) / (weight + 1)
        return merged

    def mix(self, tower: Tower, values: Tensor) -> Tensor:
        mixed = self._maps(tower).to(values.dtype) @ values[:, :, 1:]
        return F.pad(mixed, (0, 0, 1, 0))  # [CLS] takes no part

    def tokens(self, tower: Tower) -> Tensor:
        mixed = self.mix(tower, tower.last.v)[:, :, 1:].transpose(1, 2).flatten(2)
        cls = tower.final_tokens()[:, :1]  # of the unchanged last block
        return torch.cat([cls, project_out(tower, mixed)], dim=1)

    def similarities(self, features: Tensor, text: Tensor, cls: Tensor) -> Tensor:
        cls = F.normalize(cls, dim=-1).expand(len(features), -1)
        share = cls @ text.T  # K, Q
        clusters = clusters_of(text, self.cluster_distance)
        g = self.global_weight
        maps = []
        for own, about in zip(features, share, strict=True):
            words = move_words(text, clusters, about, own.flatten(0, 1), self.patch_weight)
            maps.append((1 - g) * (own @ words.T) + g * about)
        return torch.stack(maps)


def spectral_distance(first: Tensor, second: Tensor) -> Tensor:
    """W_ij: L1 distance of the normalised spectra of s k kᵀ of two sets of heads, (M, M').

    The largest 20 eigenvalues of k kᵀ are those of kᵀ k; the scale cancels.

    Args:
        first, second: keys (M, P, d).
    """

    def spectra(keys: Tensor) -> Tensor:
        keys = keys.double()
        wide = keys.shape[1] < keys.shape[2]
        gram = keys @ keys.transpose(1, 2) if wide else keys.transpose(1, 2) @ keys
        values = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0)[:, :_EIGENVALUES]
        return values / values.sum(-1, keepdim=True).clamp_min(1e-300)

    return (spectra(first)[:, None] - spectra(second)[None]).abs().sum(-1).float()


def match_heads(cost: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the assignment of least cost; rounding does not decide ties."""
    optimize = _scipy("optimize")
    return optimize.linear_sum_assignment(cost.double().cpu().numpy().round(6))


def low_rank(keys: Tensor, scale: float, stretch: bool) -> Tensor:
    """s k kᵀ with its 10 largest singular values alone, (P, P).

    With ``stretch``, these are mapped linearly from [min, max] to [0.5 min, 1.5 max].
    """
    left, singular, _ = torch.linalg.svd(keys.double(), full_matrices=False)
    left, values = left[:, :_RANK], scale * singular[:_RANK] ** 2
    if stretch:
        low, high = values.min(), values.max()
        share = (values - low) / (high - low).clamp_min(1e-300)
        values = 0.5 * low + share * (1.5 * high - 0.5 * low)
    return ((left * values) @ left.T).float()


def to_range(x: Tensor, like: Tensor) -> Tensor:
    """x mapped linearly to the range of another tensor."""
    low, high = x.min(), x.max()
    share = (x - low) / (high - low).clamp_min(1e-12)
    return share * (like.max() - like.min()) + like.min()


def clusters_of(text: Tensor, distance: float) -> np.ndarray:
    """The cluster of every query (Q,): Ward's linkage of cosine distances, cut at ``distance``."""
    if len(text) == 1:
        return np.zeros(1, dtype=np.int64)
    hierarchy = _scipy("cluster.hierarchy")
    unit = F.normalize(text.double(), dim=-1).cpu().numpy()
    rows, columns = np.triu_indices(len(unit), 1)
    condensed = np.maximum(1 - (unit[rows] * unit[columns]).sum(1), 0)
    tree = hierarchy.linkage(condensed, method="ward")
    return hierarchy.fcluster(tree, distance, criterion="distance")


def move_words(
    text: Tensor, clusters: np.ndarray, about: Tensor, patches: Tensor, weight: float
) -> Tensor:
    """In every cluster, the word most like [CLS] moves to the two patches most like it.

    Args:
        text: (Q, E).
        clusters: (Q,).
        about: (Q,) similarity with [CLS].
        patches: (P, E) of unit length.
        weight: m.
    """
    moved = text.clone()
    order = about.cpu().numpy()
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        best = int(members[order[members].argmax()])
        near = (patches @ text[best]).topk(min(2, len(patches))).indices
        towards = F.normalize(patches[near].mean(0), dim=-1)
        moved[best] = F.normalize((1 - weight) * text[best] + weight * towards, dim=-1)
    return moved


def _scipy(name: str) -> ModuleType:
    try:
        import importlib

        return importlib.import_module(f"scipy.{name}")
    except ImportError as error:
        raise InputError(
            f"attention: the recipe 'cass' needs SciPy ({error}); run `pip install scipy`."
        ) from error
