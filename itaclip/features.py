"""Dense features of an image: windows, their views, the encoder's passes, the views' fusion.

Windows go one batch after the other, unless the recipe's last step sees all windows of the picture,
or they are stitched (``merge='stitch'``): then the blocks before run in batches, what they give is
gathered view by view, and the last step follows once.

Shapes: H, W pixels; R, K rows and columns of windows; h, w patches of a window; V views.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .errors import InputError
from .guide import GuideReads
from .image_encoder import ImageEncoder
from .recipes import Recipe
from .recipes.corrclip import PADDING_REGION, nearest
from .recipes.tower import Tower
from .runtime.batches import run_in_batches
from .runtime.stages import stage
from .settings import Settings
from .sliding_window import WindowAssembler, WindowGrid, whole_image
from .views import View, fuse_features
from .vocabulary import Vocabulary

# A progress bar over one image's windows appears from this number of them.
_MANY_WINDOWS = 500


class Row(NamedTuple):
    """One row of windows.

    Attributes:
        features: (K, h, w, E).
        cls: (K, E), or (1, E) of the whole picture; None where no step reads it.
    """

    features: Tensor
    cls: Tensor | None


@dataclass(frozen=True)
class DenseFeatures:
    """The fused features of one image's windows: all that is needed to segment into any words.

    Attributes:
        windows: the grid of R·K windows; one, where they were stitched.
        features: (R·K, h, w, E).
        vocabulary: the words that a recipe with ``needs_text`` read for them; else None.
        cls: (R·K, E) or (1, E); None where no step reads it.
        guide: (R·K, gh, gw, G), what the guide says for propagation; None without.
        image: (3, H, W), CLIP-normalised, for propagation over pixels.
    """

    windows: WindowGrid
    features: Tensor
    vocabulary: Vocabulary | None = None
    cls: Tensor | None = None
    guide: Tensor | None = None
    image: Tensor | None = None

    def rows(self) -> Iterator[Row]:
        """Each row of windows."""
        columns = len(self.windows.lefts)
        for index, features in enumerate(self.features.split(columns)):
            cls = self.cls
            if cls is not None and len(cls) == len(self.features):
                cls = cls[index * columns : (index + 1) * columns]
            yield Row(features, cls)


def check_together(recipe: Recipe, settings: Settings, encoder: ImageEncoder) -> None:
    """Refuses settings that a recipe, or the networks at hand, cannot serve (InputError)."""
    stitch = settings.windows.merge == "stitch"
    if stitch and (recipe.meets is None or recipe.needs_text):
        raise InputError(
            f"test_cfg.merge: windows of the recipe {recipe.name!r} cannot be stitched, because it "
            "looks at each window's words or pixels again; use merge='average'."
        )
    if recipe.needs_stitch and not stitch:
        raise InputError(
            f"test_cfg.merge: the recipe {recipe.name!r} correlates the whole picture by SAM after "
            "its windows have met; use test_cfg=dict(…, merge='stitch'), or switch the step off "
            "with correlation=None."
        )
    if recipe.needs_regions and getattr(settings, "regions", None) is None:
        raise InputError(
            f"regions: the recipe {recipe.name!r} attends inside regions; name their source, such "
            "as regions=dict(source='slic') or dict(source='files', folder=…)."
        )
    wanted = settings.propagation
    if wanted is not None and wanted.patches and encoder.guide is None:
        raise InputError(
            "propagation: LPOSS joins patches by a second backbone; name one, such as "
            "guide='dino-vitb16'."
        )


class Passes:
    """The passes of both networks over one image.

    Args:
        image: (3, H, W), CLIP-normalised.
        encoder: makes the features.
        settings: windows, views and batch.
        text: (Q, E), for recipes that read the words.
        regions: (H', W') int64, for recipes that need them; brought to the image's size.
    """

    def __init__(
        self,
        image: Tensor,
        encoder: ImageEncoder,
        settings: Settings,
        text: Tensor,
        regions: Tensor | None = None,
    ) -> None:
        recipe, size = encoder.recipe, tuple(image.shape[-2:])
        wanted = recipe.picture_size(size, settings.windows.crop_size or (1, 1))
        if wanted != size:
            image = F.interpolate(image[None], size=wanted, mode="bilinear", align_corners=False)[0]
        self.image, self.encoder, self.settings, self.text = image, encoder, settings, text
        self.recipe = recipe
        self._laid = settings.windows.over(wanted).padded_to(recipe.window_multiple)
        self._regions = None
        if regions is not None and recipe.needs_regions:
            self._regions = nearest(regions.to(image.device)[None], wanted)[0]
        # One window is stitched already, unless something follows where windows have met.
        several = len(self._laid) > 1 or recipe.meets == "tokens"
        self.stitched = settings.windows.merge == "stitch" and several
        self.windows = self._laid
        if self.stitched:
            straight = recipe.meets == "tokens"
            self.windows = replace(whole_image(wanted), straight=straight)

    # ---- what later steps read ------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """Fused features of each row of windows, in order."""
        cls = None
        if self.recipe.reads_cls == "picture":
            with stage("encoder"):
                cls = self.encoder.cls_features(self.image[None])
        if self.stitched or self.recipe.joint:
            yield from self._joint_rows(cls)
            return
        waiting = []
        for features, own in self._each_window(self._window_features):
            waiting.append((features, own))
            if len(waiting) == len(self._laid.lefts):
                stacked = torch.stack([f for f, _ in waiting])
                windows_cls = torch.stack([c for _, c in waiting])
                waiting = []
                yield Row(stacked, cls if self.recipe.reads_cls != "window" else windows_cls)

    def guide_features(self) -> Tensor:
        """The values of the guide's last block, (R·K, gh, gw, G), for propagation over patches."""
        guide, dtype = self.encoder.guide, self.encoder.dtype
        assert guide is not None  # as check_together saw to

        def values(windows: Tensor, _: Tensor | None) -> Tensor:
            with stage("encoder"):
                found = guide(windows, GuideReads(("v",)), dtype)
                merged = found.v.transpose(1, 2).flatten(2)
                return merged.unflatten(1, found.grid)

        found = torch.stack(list(self._each_window(values)))
        if not self.stitched:
            return found
        target = guide.grid(self._laid.image_size)
        return self._stitcher(tuple(found.shape[1:3]), target)(found)

    # ---- windows one by one ---------------------------------------------------------------------

    def _each_window(self, function: Callable[[Tensor, Tensor | None], Sequence]) -> Iterator:
        """What a function makes of the padded windows (B, 3, H, W) and their regions."""
        crops = list(self._laid.crops(self.image))
        places = range(len(crops))
        regions = None
        if self._regions is not None:
            regions = list(self._laid.crops(self._regions[None]))

        def batch(numbers: Sequence[int]) -> Sequence:
            own = self._laid.pad(torch.stack([crops[i] for i in numbers]))
            if regions is None:
                return function(own, None)
            labels = torch.stack([regions[i][0] for i in numbers])
            return function(own, self._laid.pad(labels, PADDING_REGION))

        encoder, views = self.encoder, len(self.settings.views)
        size = self._laid.encoded
        batches = run_in_batches(
            batch,
            places,
            self.settings.window_batch,
            bytes_each=views * encoder.bytes_per_pass(size),
            passes_each=views * encoder.passes_per_window(size),
            device=self.image.device,
        )
        few = len(crops) < _MANY_WINDOWS
        return iter(tqdm(batches, "windows", len(crops), leave=False, disable=few))

    def _window_features(
        self, windows: Tensor, regions: Tensor | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Fused features (h, w, E) and [CLS] (E,) of every window."""
        views = self.settings.views
        with stage("views"):
            inputs = torch.cat([view.apply(windows) for view in views])  # V·B, 3, H, W
            more = {}
            if regions is not None:
                more["regions"] = torch.cat([_turned(regions, view) for view in views])
        with stage("encoder"):
            features, cls = self.encoder(inputs, self.text, **more)
            features = F.normalize(features, dim=-1).unflatten(0, (len(views), -1))
        with stage("views"):
            return list(zip(fuse_features(features, views), cls, strict=False))

    # ---- all windows at once --------------------------------------------------------------------

    def _joint_rows(self, cls: Tensor | None) -> Iterator[Row]:
        """The rows of a recipe whose last step sees all windows, or of the one stitched window."""
        fused, own_cls = 0, None
        for view in self.settings.views:
            features, view_cls = self._view_features(view)
            if own_cls is None:
                own_cls = view_cls
            with stage("views"):
                fused = fused + view.weight * features
        if self.recipe.reads_cls == "window":
            cls = own_cls
        yield from DenseFeatures(self.windows, fused, cls=cls).rows()

    def _view_features(self, view: View) -> tuple[Tensor, Tensor]:
        """Normalised features (L, h, w, E) of one view, in the image's frame, and [CLS] (L, E)."""
        encoder, recipe = self.encoder, self.recipe
        values_meet = self.stitched and recipe.meets == "values"

        def towers(windows: Tensor, regions: Tensor | None) -> list[Tower]:
            with stage("encoder"):
                labels = None if regions is None else _turned(regions, view)
                tower = encoder.tower(view.apply(windows), regions=labels)
                if values_meet:
                    _ = tower.last  # queries, keys and values of the last block meet too
                return tower.one_by_one()

        tower = Tower.of_all(list(self._each_window(towers)))
        with stage("encoder"):
            if values_meet:
                features, cls = encoder.features_of(self._stitch_values(tower.moved(view.undo)))
            elif self.stitched:
                features, cls = self._stitch_tokens(tower, view)
            else:
                features, cls = encoder.features_of(tower)
                features = view.undo(features)
            return F.normalize(features, dim=-1), cls

    def _stitch_values(self, tower: Tower) -> Tower:
        """The tower of the whole picture."""
        own = self._stitcher(tower.grid, self.encoder.grid(self._laid.image_size))
        if tower.guide is None:
            return tower.moved(own)
        assert self.encoder.guide is not None
        target = self.encoder.guide.grid(self._laid.image_size)
        stitched = tower.moved(own, self._stitcher(tower.guide.grid, target))
        stitched.regions = None if self._regions is None else self._regions[None]
        return stitched

    def _stitch_tokens(self, tower: Tower, view: View) -> tuple[Tensor, Tensor]:
        """Features of the picture whose windows' tokens have met."""
        encoder, recipe = self.encoder, self.recipe
        tokens = recipe.tokens(tower)
        grid = recipe.output_grid(tower)
        prefix = tokens.shape[1] - grid[0] * grid[1]
        patches = view.undo(tokens[:, prefix:].unflatten(1, grid))
        source = encoder.guide if recipe.needs_guide else encoder
        assert source is not None
        patches = self._stitcher(grid, source.grid(self._laid.image_size))(patches)
        grid = tuple(patches.shape[1:3])
        merged, grid = recipe.on_picture(
            patches.flatten(1, 2), grid, self.image, encoder.sam, encoder.dtype
        )
        cls = tokens[:, :prefix].mean(0, keepdim=True)
        return encoder.read(encoder.visual.ln_post(torch.cat([cls, merged], dim=1)), grid)

    def _stitcher(
        self, patches: tuple[int, int], target: tuple[int, int]
    ) -> Callable[[Tensor], Tensor]:
        """Puts maps of all windows (L, h, w, c) together: (1, h', w', c)."""
        assemble = WindowAssembler.onto_grid(self._laid, patches, target, self.image.device)
        columns = len(self._laid.lefts)
        return lambda maps: assemble(maps.float().split(columns))[None]


def _turned(regions: Tensor, view: View) -> Tensor:
    """Regions (B, H, W) as a view turns the picture; flips undo themselves."""
    return view.undo(regions.unsqueeze(-1)).squeeze(-1)
