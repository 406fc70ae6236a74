"""The guide: patch tokens, or queries, keys and values of the last block, of CLIP's windows.

The modules and weights are those of ``transformers``; queries, keys and values are read by hooks.

Shapes: B windows, H, W pixels; gh, gw the guide's patches, P = gh·gw in row-major order; D width,
M heads, d head width. Height comes before width.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..runtime.positions import resize_positions
from ..runtime.torch_state import undisturbed

READS = ("tokens", "q", "k", "v")


@dataclass(frozen=True)
class GuideReads:
    """What a method reads of the guide, and how it shows it the window.

    Attributes:
        parts: out of ``'tokens'`` (after the final norm) and ``'q'``, ``'k'``, ``'v'`` of the last
            block.
        square: the window is resized to a square of its shorter side first.
        colours: None turns CLIP's normalisation back exactly. Else (mean, std) that stand for
            CLIP's, on the scale 0 to 1, after which values are cut to steps of 1/255: the colour
            shift of published code.
        padding: keeps the patches of the padding that SAM sees; the grid is then its square.
    """

    parts: tuple[str, ...] = ("tokens",)
    square: bool = False
    colours: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    padding: bool = False


@dataclass(frozen=True)
class GuideFeatures:
    """What the guide sees in B windows.

    Attributes:
        grid: (gh, gw) patches.
        tokens: (B, P, D) after the final norm, fp32; None if not asked for, like the others.
        q, k, v: (B, M, P, d) of the last block, fp32.
    """

    grid: tuple[int, int]
    tokens: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "GuideFeatures":
        """The same with a function applied to every tensor."""
        parts = {part: getattr(self, part) for part in READS}
        return GuideFeatures(
            self.grid, **{k: None if v is None else function(v) for k, v in parts.items()}
        )

    def moved(self, move: Callable[[Tensor], Tensor]) -> "GuideFeatures":
        """The same with all maps of patches (B, gh, gw, c) moved, such as flipped."""
        grid = self.grid

        def maps(t: Tensor) -> Tensor:
            nonlocal found
            heads = t.shape[1] if t.ndim == 4 else None
            t = t if heads is None else t.transpose(1, 2).flatten(2)
            out = move(t.unflatten(1, grid))
            found = tuple(out.shape[1:3])
            out = out.flatten(1, 2)
            return out if heads is None else out.unflatten(2, (heads, -1)).transpose(1, 2)

        found = grid
        made = self.map(maps)
        return replace(made, grid=found)

    @staticmethod
    def cat(several: Sequence["GuideFeatures"]) -> "GuideFeatures":
        """The windows of several batches."""
        parts = {}
        for part in READS:
            own = [getattr(one, part) for one in several]
            parts[part] = None if own[0] is None else torch.cat(own)
        return GuideFeatures(several[0].grid, **parts)


class Guide(nn.Module):
    """A frozen backbone of ``transformers`` as a source of patch features.

    Args:
        model: ``ViTModel``, ``Dinov2Model``, ``Dinov2WithRegistersModel``, ``DINOv3ViTModel`` or
            ``SamVisionModel``.
        mean, std: the guide's own normalisation of RGB, on the scale 0 to 1.
        clip_mean, clip_std: the normalisation of the windows it gets, on the same scale.
        positions: how position embeddings are resized, see :func:`resize_positions`.
        source: what messages call it.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        clip_mean: Sequence[float],
        clip_std: Sequence[float],
        positions: str = "offset",
        source: str = "guide",
    ) -> None:
        super().__init__()
        self.model = model.float().requires_grad_(False).eval()
        self.source, self.positions = source, positions
        config = model.config
        self.kind = config.model_type
        self.is_sam = self.kind == "sam_vision_model"
        self.patch_size = config.patch_size
        self.width, self.heads = config.hidden_size, config.num_attention_heads
        self.depth = config.num_hidden_layers
        # What stands before the patches: [CLS] and registers.
        registers = getattr(config, "num_register_tokens", 0) or 0
        self._prefix = 0 if self.is_sam else 1 + registers
        for name, value in dict(mean=mean, std=std, clip_mean=clip_mean, clip_std=clip_std).items():
            value = torch.tensor(value, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, value, persistent=False)
        embeddings = getattr(model, "embeddings", None)
        if hasattr(embeddings, "interpolate_pos_encoding"):
            embeddings.interpolate_pos_encoding = self._positions
        for name, module in self.last_projections().items():
            module.register_forward_hook(partial(_keep, name))

    def _positions(self, tokens: Tensor, height: int, width: int) -> Tensor:
        table = self.model.embeddings.position_embeddings[0]
        grid = (height // self.patch_size, width // self.patch_size)
        return resize_positions(table, grid, self.positions)[None]

    # ---- sizes ----------------------------------------------------------------------------------

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(gh, gw) patches of a window of ``size`` (H, W) pixels.

        Raises:
            InputError: a side is shorter than one patch.
        """
        height, width = self._sam_size(size) if self.is_sam else size
        gh, gw = height // self.patch_size, width // self.patch_size
        if gh == 0 or gw == 0:
            raise InputError(
                f"image: expected at least {self.patch_size}x{self.patch_size} pixels (one patch "
                f"of the guide), but got {size[0]}x{size[1]} (height x width); enlarge it in the "
                "test pipeline."
            )
        return gh, gw

    def _sam_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """SAM's resizing: the long side becomes the trained one."""
        scale = self.model.config.image_size / max(size)
        return tuple(int(side * scale + 0.5) for side in size)

    def tokens_per_pass(self, size: tuple[int, int]) -> int:
        """Number of tokens that one window takes."""
        if self.is_sam:
            return (self.model.config.image_size // self.patch_size) ** 2
        gh, gw = self.grid(size)
        return self._prefix + gh * gw

    def bytes_per_pass(self, size: tuple[int, int]) -> int:
        """A generous estimate of the memory that one window takes."""
        tokens = self.tokens_per_pass(size)
        own = 4 * tokens * self.width * 16
        return own + (4 * self.heads * tokens**2 if self.is_sam else 0)  # its bias is stored

    # ---- features -------------------------------------------------------------------------------

    def prepared(self, windows: Tensor, reads: GuideReads) -> Tensor:
        """CLIP-normalised windows (B, 3, H, W) as the guide wants them.

        The only place where one normalisation is turned back and the other applied.
        """
        if reads.square and windows.shape[-2] != windows.shape[-1]:
            side = min(windows.shape[-2:])
            windows = F.interpolate(
                windows, size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
        if reads.colours is None:
            pixels = windows * self.clip_std + self.clip_mean
        else:
            mean, std = (self.mean.new_tensor(c)[:, None, None] for c in reads.colours)
            pixels = ((windows * std + mean) * 255).clamp(0, 255).floor() / 255
        normalised = (pixels - self.mean) / self.std
        if not self.is_sam:
            return normalised
        size = self._sam_size(windows.shape[-2:])
        if size != tuple(windows.shape[-2:]):
            normalised = F.interpolate(
                normalised, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        side = self.model.config.image_size
        return F.pad(normalised, (0, side - size[1], 0, side - size[0]))

    @undisturbed()
    def forward(
        self, windows: Tensor, reads: GuideReads, dtype: torch.dtype = torch.float32
    ) -> GuideFeatures:
        """Features of CLIP-normalised windows.

        Args:
            windows: (B, 3, H, W), CLIP-normalised.
            reads: what is wanted.
            dtype: of the matrix products; layer norms and the residual stream stay in fp32.
        """
        pixels = self.prepared(windows.float(), reads)
        size = windows.shape[-2:]
        grid = self.grid((min(size),) * 2 if reads.square else tuple(size))
        if reads.padding and self.is_sam:
            grid = (self.model.config.image_size // self.patch_size,) * 2
        found: dict[str, Tensor] = {}
        lowering = nullcontext()
        if dtype != torch.float32:
            lowering = torch.autocast(windows.device.type, dtype)
        keys = {"interpolate_pos_encoding": True} if self.kind == "vit" else {}
        token = _kept.set(found)
        try:
            with lowering:
                last = self.model(pixels, **keys).last_hidden_state
        finally:
            _kept.reset(token)
        parts = {}
        if "tokens" in reads.parts:
            parts["tokens"] = self._patches(last.float(), grid)
        if "qkv" in found:
            qkv = found.pop("qkv").flatten(1, 2)  # B, P of the full square, 3 D
            found = dict(zip("qkv", qkv.chunk(3, dim=-1), strict=True))
        for name in "qkv":
            if name in reads.parts:
                own = self._patches(found[name].float(), grid)
                parts[name] = own.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return GuideFeatures(grid, **parts)

    def _patches(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, P, D) of the valid patches alone."""
        if not self.is_sam:
            return tokens[:, self._prefix :]
        side = self.model.config.image_size // self.patch_size
        if tokens.ndim == 4:  # the neck's output is (B, D, side, side)
            tokens = tokens.flatten(2).transpose(1, 2)
        own = tokens.unflatten(1, (side, side))[:, : grid[0], : grid[1]]
        return own.flatten(1, 2)

    def relative_positions(self) -> tuple[Tensor, Tensor] | None:
        """SAM's tables (2S - 1, d) of the last block, for rows and for columns."""
        attention = self.last_block.attn
        if not attention.use_rel_pos:
            return None
        return attention.rel_pos_h, attention.rel_pos_w

    @property
    def last_block(self) -> nn.Module:
        """The last transformer block."""
        lists = [m for m in self.model.modules() if isinstance(m, nn.ModuleList)]
        return max((m for m in lists if len(m) == self.depth), key=_size)[-1]

    def last_projections(self) -> dict[str, nn.Module]:
        """The linear maps of the last block's queries, keys and values."""
        names = {"query": "q", "key": "k", "value": "v", "qkv": "qkv"}
        names |= {f"{letter}_proj": letter for letter in "qkv"}
        found = {}
        for path, module in self.last_block.named_modules():
            name = names.get(path.rpartition(".")[2])
            if name is not None and isinstance(module, nn.Linear):
                found[name] = module
        if not ({"q", "k", "v"} <= found.keys() or "qkv" in found):
            raise RuntimeError(f"no queries, keys and values in a block of {self.kind}")
        return found


# Where the last block's projections are kept in this thread's pass.
_kept: ContextVar[dict[str, Tensor] | None] = ContextVar("guide_projections", default=None)


def _keep(name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
    found = _kept.get()
    if found is not None:
        found[name] = output


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
