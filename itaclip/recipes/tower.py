"""CLIP's vision tower, run block by block so that recipes can read what they need of it.

The modules and weights are openai-clip's. Blocks are run by the functions below rather than by
their ``forward``, because recipes read queries, keys, values and outputs of some.

Shapes: B batch, N = p + h·w tokens (with p = 1 token 0 is [CLS]; SigLIP has none, p = 0), D width,
M heads, d head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..guide import GuideFeatures
from .attention import Projections

Move = Callable[[Tensor], Tensor]
AfterBlock = Callable[[int, Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class Reads:
    """What a recipe reads of the blocks before the last, counted from 1.

    Attributes:
        projections: blocks whose queries, keys and values are kept.
        outputs: blocks whose output tokens are kept; 0 is the input of block 1.
    """

    projections: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


@dataclass
class Tower:
    """The state of CLIP's tower before its last block, for one batch.

    Attributes:
        blocks: all L blocks.
        grid: (h, w) patches.
        patch_size: side of a patch in pixels.
        tokens: (B, N, D) fp32, input of the last block.
        projections: q, k, v of the blocks that were asked for, and of the last.
        outputs: tokens (B, N, D) after the blocks that were asked for.
        guide: what the second backbone sees of the same windows, for methods that need it.
        regions: (B, H, W) int64 numbers of the pixels' regions, for methods that need them.
    """

    blocks: Sequence[nn.Module]
    grid: tuple[int, int]
    patch_size: int
    tokens: Tensor
    projections: dict[int, Projections] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    guide: GuideFeatures | None = None
    regions: Tensor | None = None

    def one_by_one(self) -> list["Tower"]:
        """The windows of the batch, each a tower of its own (views, not copies)."""
        return [self._with(itemgetter(slice(i, i + 1))) for i in range(len(self.tokens))]

    @staticmethod
    def of_all(towers: Sequence["Tower"]) -> "Tower":
        """One tower whose batch are all windows."""
        first = towers[0]
        if len(towers) == 1:
            return first

        def projections(block: int) -> Projections:
            parts = zip(*(t.projections[block] for t in towers), strict=True)
            return Projections(*map(torch.cat, parts))

        guides = [t.guide for t in towers if t.guide is not None]
        return Tower(
            first.blocks,
            first.grid,
            first.patch_size,
            torch.cat([t.tokens for t in towers]),
            {i: projections(i) for i in first.projections},
            {i: torch.cat([t.outputs[i] for t in towers]) for i in first.outputs},
            None if first.guide is None else GuideFeatures.cat(guides),
            None if first.regions is None else torch.cat([t.regions for t in towers]),
        )

    def _with(self, function: Callable[[Tensor], Tensor]) -> "Tower":
        """The same with a function applied to every tensor."""
        return Tower(
            self.blocks,
            self.grid,
            self.patch_size,
            function(self.tokens),
            {i: Projections(*map(function, p)) for i, p in self.projections.items()},
            {i: function(t) for i, t in self.outputs.items()},
            None if self.guide is None else self.guide.map(function),
            None if self.regions is None else function(self.regions),
        )

    def moved(self, move: "Move", guide_move: "Move | None" = None) -> "Tower":
        """The same with all maps of patches moved, such as flipped, or windows put together.

        Args:
            move: maps of CLIP's patches (B, h, w, c) → (B', h', w', c).
            guide_move: of the guide's patches; None: ``move``.

        Returns:
            A tower without regions. Where the number of windows changes, [CLS] is their mean.
        """
        grid, prefix = self.grid, self.prefix
        found = grid

        def tokens(t: Tensor) -> Tensor:
            patches = move(t[:, prefix:].unflatten(1, grid))
            nonlocal found
            height, width = patches.shape[1:3]
            found = (height, width)
            cls = t[:, :prefix]
            cls = cls if len(patches) == len(t) else cls.mean(0, keepdim=True)
            return torch.cat([cls, patches.flatten(1, 2).to(t.dtype)], dim=1)

        def heads(t: Tensor) -> Tensor:
            joined = tokens(t.transpose(1, 2).flatten(2))
            return joined.unflatten(2, (t.shape[1], -1)).transpose(1, 2)

        own = tokens(self.tokens)
        projections = {i: Projections(*map(heads, p)) for i, p in self.projections.items()}
        outputs = {i: tokens(t) for i, t in self.outputs.items()}
        guide = None if self.guide is None else self.guide.moved(guide_move or move)
        return Tower(self.blocks, found, self.patch_size, own, projections, outputs, guide)

    @property
    def prefix(self) -> int:
        """p, tokens before the patches."""
        return self.tokens.shape[1] - self.grid[0] * self.grid[1]

    @property
    def depth(self) -> int:
        """L, the number of the last block."""
        return len(self.blocks)

    @property
    def last(self) -> Projections:
        """q, k, v of the last block for :attr:`tokens`."""
        if self.depth not in self.projections:
            self.projections[self.depth] = self.project(self.tokens)
        return self.projections[self.depth]

    def projections_of(self, block: int) -> Projections:
        """q, k, v of a block that was asked for, or of the last."""
        return self.last if block == self.depth else self.projections[block]

    def input_of(self, block: int) -> Tensor:
        """Tokens (B, N, D) that enter a block: the output of the one before, which was kept."""
        return self.tokens if block == self.depth else self.outputs[block - 1]

    def project(self, tokens: Tensor) -> Projections:
        """q, k, v of the last block for any tokens (B, N, D)."""
        return block_projections(self.blocks[-1], tokens)

    def out(self, attention: Tensor, block: int | None = None) -> Tensor:
        """OutProj of a block (default: the last), (B, M, N, d) → (B, N, D) fp32."""
        return add_attention(self.blocks[(block or self.depth) - 1], None, attention)

    def finish(self, attention: Tensor, residual: bool, feed_forward: bool) -> Tensor:
        """The last block from its attention (B, M, N, d) on: output tokens (B, N, D)."""
        block = self.blocks[-1]
        tokens = add_attention(block, self.tokens if residual else None, attention)
        return add_feed_forward(block, tokens) if feed_forward else tokens

    def with_cls(self, patches: Tensor) -> Tensor:
        """Patches (B, P, D) of a method without a [CLS] of its own, behind the last input's."""
        return torch.cat([self.tokens[:, : self.prefix], patches], dim=1)

    def final_tokens(self) -> Tensor:
        """Output (B, N, D) of the unchanged last block."""
        attention = F.scaled_dot_product_attention(*self.last)
        return self.finish(attention, residual=True, feed_forward=True)


def run_blocks(tower: Tower, reads: Reads, after_block: AfterBlock | None = None) -> None:
    """Runs all blocks but the last on ``tower.tokens`` and keeps what is asked for.

    Args:
        tower: changed in place.
        reads: what is kept.
        after_block: (block, tokens, grid) → tokens, such as a repair.
    """
    if 0 in reads.outputs:
        tower.outputs[0] = tower.tokens
    for number, block in enumerate(tower.blocks[:-1], start=1):
        projections = block_projections(block, tower.tokens)
        if number in reads.projections:
            tower.projections[number] = projections
        attention = F.scaled_dot_product_attention(*projections)
        tokens = add_feed_forward(block, add_attention(block, tower.tokens, attention))
        if after_block is not None:
            tokens = after_block(number, tokens, tower.grid)
        if number in reads.outputs:
            tower.outputs[number] = tokens
        tower.tokens = tokens


def block_projections(block: nn.Module, tokens: Tensor) -> Projections:
    """q, k, v of a block for its LN1 output, each (B, M, N, d), from tokens (B, N, D)."""
    attn = block.attn
    normed = block.ln_1(tokens).to(attn.in_proj_weight.dtype)
    qkv = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias)
    qkv = qkv.unflatten(-1, (3, attn.num_heads, -1))  # B, N, 3, M, d
    return Projections(*qkv.permute(2, 0, 3, 1, 4))


def add_attention(block: nn.Module, tokens: Tensor | None, attention: Tensor) -> Tensor:
    """tokens (B, N, D), or None for nothing, + OutProj(attention (B, M, N, d))."""
    merged = attention.transpose(1, 2).flatten(2)  # B, N, D
    out = block.attn.out_proj(merged).float()
    return out if tokens is None else out.add_(tokens)


def add_feed_forward(block: nn.Module, tokens: Tensor) -> Tensor:
    """tokens + MLP(LN2(tokens)), (B, N, D), with the block's own activation.

    CLIP's x · sigmoid(1.702 x) is silu(1.702 x) / 1.702; both factors ride on the matrix products,
    which leaves one pass over the hidden layer instead of three. GELU is one pass by itself.
    """
    fc, proj, activation = block.mlp.c_fc, block.mlp.c_proj, block.mlp.gelu
    normed = block.ln_2(tokens).to(fc.weight.dtype).flatten(0, 1)
    if isinstance(activation, nn.GELU):
        hidden = torch.addmm(fc.bias, normed, fc.weight.T)
        hidden = torch.ops.aten.gelu_(hidden, approximate=activation.approximate)
        out = torch.addmm(proj.bias, hidden, proj.weight.T)
    else:
        hidden = torch.addmm(fc.bias, normed, fc.weight.T, beta=1.702, alpha=1.702)
        hidden = F.silu(hidden, inplace=True)
        out = torch.addmm(proj.bias, hidden, proj.weight.T, alpha=1 / 1.702)
    return tokens + out.view_as(tokens)
