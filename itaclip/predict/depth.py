"""Why deep towers collapse: block by block, what attention and patches of the plain tower do.

In deep CLIPs attention of late blocks spreads over all tokens or falls into a few patches, and
patches come to look alike, so that no reading of the last block tells them apart. Shapes: L blocks,
h·w patches.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..recipes.attention import Projections
from ..recipes.patch_tokens import outlier_factors
from ..recipes.tower import Reads
from .inspection import Figure, panels, show
from .segmenter import EncodedImage, ImageLike, Segmenter

# SC-CLIP's test: the factor over 30 neighbours; the 5 % of largest factors count as outliers.
_NEIGHBOURS, _QUANTILE = 30, 0.95


@dataclass(frozen=True, eq=False)
class Depth:
    """The plain tower on one picture, as numbers.

    Attributes:
        image: (H, W, 3) uint8.
        entropy: (L,) of attention, mean over heads and patches: 1 looks at all tokens alike, 0 at
            one of them.
        sink: (L,) the largest share of attention that one patch gets from all patches on average;
            1/N where none stands out.
        cls: (L,) the share that [CLS] gets; 0 without one.
        similarity: (L,) mean cosine similarity between different patches that enter a block; 1: all
            look alike.
        norm: (L,) of the largest patch that enters a block, in medians.
        factors: (h, w) local outlier factor of the patches that enter the last block (SC-CLIP,
            step 1; Breunig et al., SIGMOD 2000): 1 is like its neighbours.
        outliers: (h, w) bool, the 5 % of largest factors.
    """

    image: np.ndarray
    entropy: np.ndarray
    sink: np.ndarray
    cls: np.ndarray
    similarity: np.ndarray
    norm: np.ndarray
    factors: np.ndarray
    outliers: np.ndarray

    def table(self) -> str:
        """A line for every block, and one for the outliers."""
        lines = ["block  entropy   sink  [CLS]  similarity  norm"]
        for block in range(len(self.entropy)):
            lines.append(
                f"{block + 1:5}  {self.entropy[block]:7.3f}  {self.sink[block]:5.3f}  "
                f"{self.cls[block]:5.3f}  {self.similarity[block]:10.3f}  {self.norm[block]:4.1f}"
            )
        places = np.argwhere(self.outliers)
        order = np.argsort(-self.factors[self.outliers], kind="stable")
        named = ", ".join("{},{}".format(*places[i]) for i in order[:8])
        lines.append(
            f"outliers that enter block {len(self.entropy)}: {len(places)} of {self.factors.size} "
            f"patches, factor up to {self.factors.max():.2f}, at {named or 'none'}"
        )
        return "\n".join(lines)


def depth_of(segmenter: Segmenter, image: ImageLike | EncodedImage) -> Depth:
    """Runs the plain tower on the whole resized picture.

    Args:
        segmenter: whose model, sizes and device are used; the recipe makes no difference.
        image: as for :meth:`itaclip.Segmenter.segment`.
    """
    has_cls = segmenter.segmentor.image_encoder.prefix
    model = segmenter.with_recipe("clip" if has_cls else "maskclip")  # neither changes the blocks
    pixels, inputs = model.read(image)
    encoder = model.segmentor.image_encoder
    count = encoder.depth
    reads = Reads(tuple(range(1, count)), tuple(range(count)))
    tower = encoder.tower(inputs[None], reads)
    prefix, size = tower.prefix, tower.tokens.shape[1]
    rows = [_attention(tower.projections_of(block), prefix) for block in range(1, count + 1)]
    entropy, sink, cls = np.array(rows).T
    patches = [tower.input_of(block)[0, prefix:] for block in range(1, count + 1)]
    spread = np.array([_spread(own) for own in patches])
    factors = outlier_factors(patches[-1][None], _NEIGHBOURS)[0]
    flagged = factors > torch.quantile(factors, _QUANTILE)
    shaped = [t.unflatten(0, tower.grid).cpu().numpy() for t in (factors, flagged)]
    return Depth(pixels, entropy / np.log(size), sink, cls, *spread.T, *shaped)


def depth_figure(depth: Depth) -> Figure:
    """The picture, its outliers, and the numbers over the blocks."""
    figure, axes = panels(2, 2, depth.image.shape[:2])
    show(axes[0, 0], depth.image, "picture")
    drawn = axes[0, 1].imshow(depth.factors, cmap="inferno")
    axes[0, 1].set_title("outlier factor of patches (last block's input)", fontsize=9)
    figure.colorbar(drawn, ax=axes[0, 1], shrink=0.7)
    for y, x in np.argwhere(depth.outliers):
        axes[0, 1].plot(x, y, marker="s", color="cyan", fillstyle="none", markersize=4)
    blocks = np.arange(1, len(depth.entropy) + 1)
    for ax, lines, title in (
        (axes[1, 0], {"entropy": depth.entropy, "most to one patch": depth.sink,
                      "to [CLS]": depth.cls}, "attention per block"),
        (axes[1, 1], {"similarity": depth.similarity,
                      "median / largest norm": 1 / depth.norm}, "patches that enter each block"),
    ):  # fmt: skip
        ax.set_axis_on()
        for name, values in lines.items():
            ax.plot(blocks, values, marker=".", label=name)
        ax.set_ylim(0, 1.02)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("block", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.legend(fontsize=7)
    return figure


def _attention(projections: Projections, prefix: int) -> tuple[float, float, float]:
    """Entropy in nats, the largest share of one patch, and [CLS]'s share, of patches' attention."""
    q, k, _ = (part.float() for part in projections)
    weights = (q[:, :, prefix:] @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    entropy = torch.special.entr(weights).sum(-1).mean()
    got = weights.mean((0, 1, 2))  # N
    return entropy.item(), got[prefix:].max().item(), got[:prefix].sum().item()


def _spread(patches: Tensor) -> tuple[float, float]:
    """Mean cosine between different patches (P, D), and the largest norm in medians."""
    norms = patches.norm(dim=-1)
    total, count = F.normalize(patches, dim=-1).sum(0), len(patches)
    similarity = (total.square().sum() - count) / max(1, count * (count - 1))
    return similarity.item(), (norms.max() / norms.median()).item()
