"""Dense features: CLIP's own blocks, then the recipe's last block (METHODS 1.1).

With the recipe ``clip`` the tokens equal the stock encoder's.

Shapes: B batch, N = 1 + h·w tokens (token 0 is [CLS]), D width, M heads, E embedding.
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import InputError
from .guide import GUIDES, Guide
from .recipes import Recipe, resolve_recipe
from .recipes.tower import AfterBlock, Reads, Tower, run_blocks
from .runtime.positions import resize_positions
from .runtime.torch_state import WeightsStamp, undisturbed

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


class ImageEncoder(nn.Module):
    """CLIP's vision transformer as a dense encoder.

    Args:
        visual: ``clip.model.VisionTransformer``.
        recipe: a recipe resolved for this tower's depth.
        precision: ``'fp32'``, ``'bf16'``, ``'fp16'``, or ``'auto'``: bf16 where the device has
            instructions for it (else fp16 on a GPU, fp32 on a CPU). The residual stream, layer
            norms and the projection stay in fp32; only the blocks' matrix products are lowered.
        guide: a second backbone, for recipes that need one.
        sam: SAM's encoder, for recipes that need it beside the guide.
    """

    def __init__(
        self,
        visual: nn.Module,
        recipe: Recipe,
        precision: str = "fp32",
        guide: Guide | None = None,
        sam: Guide | None = None,
    ) -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise InputError(
                f"precision: expected {', '.join(map(repr, PRECISIONS[:-1]))} or "
                f"{PRECISIONS[-1]!r}, but got {precision!r}."
            )
        self.visual = visual.float().requires_grad_(False).eval()
        self.guide, self.sam = guide, sam
        self._check(recipe)
        self.recipe = recipe
        self.precision = precision
        self._lowered: tuple[tuple, nn.ModuleList, WeightsStamp] | None = None

    def variant(self, attention: str | Mapping | Recipe) -> "ImageEncoder":
        """An encoder with another recipe that shares the weights, and their lowered copy.

        Raises:
            InputError: see :func:`itaclip.recipes.resolve_recipe`.
        """
        recipe = resolve_recipe(attention, self.depth)
        self._check(recipe)
        self.prepare()
        other = sharing(self)
        other.recipe = recipe
        return other

    def _check(self, recipe: Recipe) -> None:
        """Refuses a recipe that does not go with the weights."""
        recipe.check_width(self.width)
        recipe.check_cls(self.prefix > 0)
        if recipe.needs_guide:
            if self.guide is None:
                raise InputError(
                    f"guide: the recipe {recipe.name!r} needs a second backbone; name one, such as "
                    f"guide='dino-vitb8' (one of {', '.join(GUIDES)}, 'hf:OWNER/NAME' or a folder)."
                )
            recipe.check_guide(self.guide, self.visual.transformer.resblocks[-1].attn.num_heads)
        if recipe.needs_sam and self.sam is None:
            raise InputError(
                f"guide: the recipe {recipe.name!r} correlates patches by SAM; give its encoder "
                "beside the guide, guide=dict(model='dino-vitb16', sam='sam-vitb'), or switch the "
                f"step off, attention=dict(recipe={recipe.name!r}, correlation=None)."
            )

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.visual.conv1.kernel_size[0]

    @property
    def prefix(self) -> int:
        """p, tokens before the patches: 1 ([CLS]), or 0 in towers with a pooling head."""
        return 0 if self.visual.class_embedding is None else 1

    @property
    def depth(self) -> int:
        """L, the number of blocks."""
        return len(self.visual.transformer.resblocks)

    @property
    def width(self) -> int:
        """D, the channels of a token."""
        return self.visual.conv1.out_channels

    @property
    def resolution(self) -> int:
        """Side in pixels of the square images that the model was trained with."""
        return self.visual.input_resolution

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.visual.conv1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the blocks' matrix products on the present device."""
        return compute_dtype(self.precision, self.device)

    @undisturbed()
    def prepare(self) -> None:
        """Makes the lowered copy of the weights, if any, before the first image needs it."""
        self._blocks()

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) patches of an image of ``size`` (H, W) pixels: the floor of side / patch.

        Raises:
            InputError: a side is shorter than one patch.
        """
        h, w = (side // self.patch_size for side in size)
        if h == 0 or w == 0:
            raise InputError(
                f"image: expected at least {self.patch_size}x{self.patch_size} pixels (one patch), "
                f"but got {size[0]}x{size[1]} (height x width); enlarge it in the test pipeline."
            )
        return h, w

    def bytes_per_pass(self, size: tuple[int, int]) -> int:
        """A generous estimate of the memory that one image of ``size`` (H, W) pixels takes."""
        h, w = self.grid(size)
        reads = self.recipe.reads(self.depth)
        kept = 3 * len(reads.projections) + len(reads.outputs)
        # Tokens, their copies, q, k, v, attention and the MLP's hidden layer, in fp32.
        own = 4 * (1 + h * w) * self.width * (16 + kept) + 12 * size[0] * size[1]
        if not self.recipe.needs_guide:
            return own
        assert self.guide is not None
        return own + self.guide.bytes_per_pass(size)

    def passes_per_window(self, size: tuple[int, int]) -> int:
        """The work of one window of ``size`` (H, W) pixels, in passes of CLIP's usual 14×14 grid.

        1 for CLIP alone, whatever the size; with a guide, the tokens of both.
        """
        if not self.recipe.needs_guide:
            return 1
        assert self.guide is not None
        h, w = self.grid(size)
        return max(1, round((h * w + self.guide.tokens_per_pass(size)) / 196))

    @undisturbed()
    def forward(
        self, images: Tensor, text: Tensor | None = None, regions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encodes images or windows of one size.

        Args:
            images: (B, 3, H, W), CLIP-normalised.
            text: (Q, E), for recipes whose features depend on the words; without it, these give the
                features of their first pass.
            regions: (B, H, W) int64, for recipes with ``needs_regions``.

        Returns:
            Patch features (B, h, w, E) and the image's (B, E), [CLS]'s or the pooling head's, fp32,
            not normalised.
        """
        tower = self.tower(images, **({} if regions is None else {"regions": regions}))
        patches, image = self.features_of(tower)
        if self.recipe.needs_text and text is not None:
            similarities = F.normalize(patches, dim=-1) @ text.T
            again = self.visual.ln_post(self.recipe.tokens_again(tower, images, similarities))
            patches, image = self.read(again, tower.grid)
        return patches, image

    def features_of(self, tower: Tower) -> tuple[Tensor, Tensor]:
        """The recipe's last block: features of the patches (B, h, w, E) and of the image (B, E)."""
        normed = self.recipe.normed(tower, self.visual.ln_post)
        return self.read(normed, self.recipe.output_grid(tower))

    def read(self, normed: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Features of patches (B, h, w, E) and of the image (B, E) from normed tokens (B, N, D).

        With [CLS], they are the tokens' projections. Without, the values of the pooling head stand
        for patches alone and the head itself for the image (SigLIP, as TextRegion reads it).
        """
        if self.prefix:
            features = normed @ self.visual.proj
            return features[:, 1:].unflatten(1, grid), features[:, 0]
        pool = self.visual.pool
        return pool.values(normed).unflatten(1, grid), pool(normed)

    @undisturbed()
    def global_feature(self, image: Tensor) -> Tensor:
        """CLIP's own feature of an image as a whole: its [CLS] token, unchanged and normalised.

        Args:
            image: (3, H, W), CLIP-normalised; it is brought to the size of the training.

        Returns:
            (E,) fp32.
        """
        side = (self.resolution, self.resolution)
        whole = F.interpolate(image[None].float(), size=side, mode="bilinear", antialias=True)
        return F.normalize(self.cls_features(whole)[0], dim=-1)

    @undisturbed()
    def cls_features(self, images: Tensor) -> Tensor:
        """The image's features (B, E) of the unchanged model: [CLS]'s, or the pooling head's."""
        tower = self._clip_tower(images, Reads())
        return self.read(self.visual.ln_post(tower.final_tokens()), tower.grid)[1]

    @undisturbed()
    def attention_maps(self, images: Tensor, regions: Tensor | None = None) -> Tensor:
        """The maps of the recipe's last block (of its first pass).

        Args:
            images: (B, 3, H, W), CLIP-normalised.
            regions: (B, H, W) int64, for recipes with ``needs_regions``.

        Returns:
            (B, M, N, N) fp32, with M heads and N = 1 + h·w tokens, [CLS] first; rows attend to
            columns.
        """
        return self.recipe.attention_maps(self.tower(images, regions=regions))

    @undisturbed()
    def tower(
        self, images: Tensor, reads: Reads | None = None, regions: Tensor | None = None
    ) -> Tower:
        """Runs all blocks but the last on images (B, 3, H, W), and the guide, if it is needed.

        Args:
            reads: what is kept of them; None keeps what the recipe reads.
            regions: (B, H, W) int64, for recipes with ``needs_regions``.
        """
        if self.recipe.needs_regions and regions is None:
            raise InputError(
                f"regions: the recipe {self.recipe.name!r} needs a map of regions; name their "
                "source, such as regions=dict(source='slic')."
            )
        reads = self.recipe.reads(self.depth) if reads is None else reads
        tower = self._clip_tower(images, reads, self.recipe.after_block)
        if self.recipe.needs_guide:
            assert self.guide is not None
            tower.guide = self.guide(images, self.recipe.guide_reads, self.dtype)
            tower.regions = regions
        return tower

    def _clip_tower(
        self, images: Tensor, reads: Reads, after_block: AfterBlock | None = None
    ) -> Tower:
        grid, blocks = self.grid(images.shape[-2:]), self._blocks()
        tower = Tower(blocks, grid, self.patch_size, self.embed(images, grid))
        run_blocks(tower, reads, after_block)
        return tower

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens before the first block, (B, N, D) fp32."""
        visual, (h, w), p = self.visual, grid, self.patch_size
        # The convolution's patches do not overlap, so it is one matrix product; unlike cuDNN's
        # convolution, this is never lowered to TF32 unasked.
        pixels = images[..., : h * p, : w * p].unflatten(-1, (w, p)).unflatten(-3, (h, p))
        pixels = pixels.permute(0, 2, 4, 1, 3, 5).reshape(len(images), h * w, -1)  # 3, p, p last
        tokens = F.linear(pixels, visual.conv1.weight.flatten(1), visual.conv1.bias)
        if self.prefix:
            cls = visual.class_embedding.expand(len(images), 1, -1)
            tokens = torch.cat([cls, tokens], dim=1)
        positions = resize_positions(visual.positional_embedding, grid, prefix=self.prefix)
        return visual.ln_pre(tokens + positions)

    def _blocks(self) -> nn.ModuleList | nn.Sequential:
        """The transformer's blocks, their matrices in :attr:`dtype`; the lowered copy is kept."""
        blocks = self.visual.transformer.resblocks
        weight = blocks[0].attn.in_proj_weight
        if self.dtype == weight.dtype:
            return blocks
        key, kept = (self.dtype, weight.device), self._lowered
        if kept is None or kept[0] != key or not kept[2].holds(blocks):
            lowered = copy.deepcopy(blocks).to(self.dtype)
            for block in lowered:
                block.ln_1.float(), block.ln_2.float()
            # A tuple hides the copy from state_dict() and .to().
            kept = self._lowered = (key, lowered, WeightsStamp(blocks))
        return kept[1]


def sharing(module: nn.Module, kind: type[nn.Module] | None = None) -> nn.Module:
    """A module of its own, perhaps of a derived kind, with the same parameters and submodules."""
    other = copy.copy(module)
    other.__class__ = kind or type(module)
    for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        setattr(other, registry, copy.copy(getattr(module, registry)))
    return other


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Resolves a ``precision`` key on a device; ``'auto'`` never picks what is slower than fp32."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        # Emulated, as on cards before Ampere, bf16 is slower than fp32.
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        if can.get("amx_bf16") or can.get("avx512_bf16"):
            return torch.bfloat16
    return torch.float32
