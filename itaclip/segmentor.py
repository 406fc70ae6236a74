"""The registered segmentor: text once, then views → windows → features → scores → labels."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from .clip_model import facts_of, load_clip
from .data_preprocessor import CLIPDataPreprocessor
from .errors import InputError
from .image_encoder import ImageEncoder
from .postprocess import (
    check_postprocess,
    class_areas,
    class_scores,
    close_labels,
    label_map,
    small_classes,
)
from .recipes import Recipe, resolve_recipe
from .refinement import pamr, pamr_strips, parse_pamr
from .runtime.batches import run_in_batches, trim_memory
from .runtime.files import resolve_path
from .runtime.progress import advance, extend, progress
from .runtime.stages import stage
from .runtime.text_cache import TextCache
from .sliding_window import (
    WindowAssembler,
    WindowGrid,
    parse_test_cfg,
    sliding_windows,
    whole_image,
)
from .text_encoder import TextEncoder, imagenet_templates
from .views import fuse_features, make_views
from .vocabulary import Vocabulary, load_vocabulary

# A progress bar within one image appears from this number of windows, or of pixels times queries.
_MANY_WINDOWS = 500
_MANY_ELEMENTS = 1 << 29
# For that bar: about as many elements are refined once in the time of one encoder pass.
_ELEMENTS_PER_PASS = 10_000_000
# Labels without scores or refinement are made in strips of this many pixels times queries (64 MB).
_STRIP_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class DenseFeatures:
    """The fused features of one image's windows: all that is needed to segment into any words.

    Attributes:
        windows: the grid of R·K windows.
        features: (R·K, h, w, E).
        vocabulary: the words that a recipe with ``needs_text`` read for them; else None.
    """

    windows: WindowGrid
    features: Tensor
    vocabulary: Vocabulary | None = None


@MODELS.register_module()
class ITACLIPSegmentor(BaseSegmentor):
    """Segments images into any vocabulary with a frozen CLIP.

    Args:
        clip_model: OpenAI's name, ``'storybook-tiny'``, ``'hf:OWNER/NAME[@REVISION]'``, a folder
            that describes its model, the path of a checkpoint (see
            :func:`itaclip.clip_model.load_clip`), or a loaded model, which is taken over.
        name_path: class-name file, a line per class, names separated by commas.
        background: class 0 is "everything else"; it takes no auxiliary text.
        auxiliary_text_path: file of lines ``name >= text``; None = off.
        aux_text_weight: α, the share of the auxiliary text (ITACLIP eq. 9).
        attention: a recipe's name, or ``dict(recipe=name, …)`` to vary one.
        image_engineering_weight: λ, the share of the first category of views; None = off.
        logit_scale: factor on the cosine similarities before the softmax.
        prob_thd: pixels whose best score is below become class 0.
        area_thd: classes with at most this share of the area of classes 1… go; None = off.
        label_closing: side of the closing of the label map in pixels, odd; 0 = off.
        pamr: ``dict(num_iter=10, dilations=(8, 16))``; None = off.
        precision: ``'auto'``, ``'fp32'``, ``'bf16'`` or ``'fp16'`` of the encoder's blocks.
        test_cfg: ``dict(mode='slide', crop_size=…, stride=…)`` or ``dict(mode='whole')``.
        vocabulary: given instead of ``name_path`` and ``auxiliary_text_path`` from Python;
            ``Vocabulary.empty()`` leaves the classes to :meth:`set_vocabulary`.
        text_cache: keep text features on disk for later starts.
        window_batch: windows in one batch; None fits the device.
        return_scores: False leaves ``seg_logits`` out and makes labels in strips, which bounds the
            memory of large images and vocabularies.
        clip_config: what weights that do not describe themselves are computed with:
            ``dict(activation='quick_gelu' or 'gelu', vision_heads=…, text_heads=…, mean=…, std=…)``.
        pretrained, train_cfg, init_cfg: accepted because mmseg's helpers pass them; must be None.
        data_preprocessor: as in mmseg; by default BGR → RGB and the model's mean and deviation.

    Raises:
        InputError: any value that cannot be used, naming the key or the file and line.
    """

    def __init__(
        self,
        clip_model: str | Path | torch.nn.Module = "ViT-B/16",
        name_path: str | Path | None = None,
        background: bool = False,
        auxiliary_text_path: str | Path | None = None,
        aux_text_weight: float = 0.0,
        attention: str | Mapping = "itaclip",
        image_engineering_weight: float | None = None,
        logit_scale: float = 40,
        prob_thd: float = 0.0,
        area_thd: float | None = None,
        label_closing: int = 0,
        pamr: Mapping | None = None,
        precision: str = "fp32",
        test_cfg: Mapping | None = None,
        vocabulary: Vocabulary | None = None,
        text_cache: bool = True,
        window_batch: int | None = None,
        return_scores: bool = True,
        clip_config: Mapping | None = None,
        pretrained: None = None,
        train_cfg: None = None,
        data_preprocessor: Mapping | torch.nn.Module | None = None,
        init_cfg: None = None,
    ) -> None:
        for key, value in dict(
            pretrained=pretrained, train_cfg=train_cfg, init_cfg=init_cfg
        ).items():
            if value:
                raise InputError(
                    f"{key}: expected None, since nothing is trained or loaded here, but got "
                    f"{value!r}; the weights are named by clip_model."
                )
        for key, value in dict(
            background=background, text_cache=text_cache, return_scores=return_scores
        ).items():
            if not isinstance(value, bool):
                raise InputError(f"{key}: expected True or False, but got {value!r}.")
        if isinstance(data_preprocessor, Mapping):
            data_preprocessor = MODELS.build(data_preprocessor)
        super().__init__(data_preprocessor or CLIPDataPreprocessor(), init_cfg)
        check_postprocess(logit_scale, prob_thd, area_thd, label_closing)
        if precision not in ("auto", "fp32", "bf16", "fp16"):
            raise InputError(
                f"precision: expected 'auto', 'fp32', 'bf16' or 'fp16', but got {precision!r}."
            )
        if window_batch is not None and (type(window_batch) is not int or window_batch < 1):
            raise InputError(
                f"window_batch: expected None or an integer from 1, got {window_batch!r}."
            )
        self.logit_scale, self.prob_thd, self.area_thd = logit_scale, prob_thd, area_thd
        self.label_closing = label_closing
        self.pamr = parse_pamr(pamr)
        self.sliding = parse_test_cfg(dict(test_cfg or {"mode": "slide"}))
        self.views = make_views(image_engineering_weight)
        self.window_batch, self.return_scores = window_batch, return_scores
        self.text_cache = TextCache() if text_cache else None
        self.aux_text_weight = _checked_weight(aux_text_weight)
        if vocabulary is None:
            vocabulary = self._read_vocabulary(name_path, auxiliary_text_path, background)
        if prob_thd > 0 and vocabulary.num_classes and not vocabulary.background:
            print_log(
                f"prob_thd={prob_thd} turns unsure pixels into class 0, "
                f"{vocabulary.first_names[0]!r}, though background=False.",
                logger="current",
                level=30,
            )

        loaded = isinstance(clip_model, torch.nn.Module)
        clip = clip_model if loaded else load_clip(clip_model, clip_config)
        facts = facts_of(clip)
        if isinstance(self.data_preprocessor, CLIPDataPreprocessor):
            self.data_preprocessor.follow(facts)
        recipe = resolve_recipe(attention, len(clip.visual.transformer.resblocks))
        if (warning := facts.depth_warning()) is not None:
            print_log(warning, logger="current", level=30)
        self.image_encoder = ImageEncoder(clip.visual, recipe, precision)
        self.text_encoder = TextEncoder(clip)
        self.set_vocabulary(vocabulary)

    def _read_vocabulary(
        self, name_path: str | Path | None, aux_path: str | Path | None, background: bool
    ) -> Vocabulary:
        if name_path is None:
            raise InputError("name_path: expected the path of a class-name file, but got None.")
        names = resolve_path(name_path, "name_path")
        aux = None if aux_path is None else resolve_path(aux_path, "auxiliary_text_path")
        return load_vocabulary(names, aux, background)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Encodes other classes; the model and the features of images stay as they are."""
        self._use_words(vocabulary, self.aux_text_weight)

    def variant(
        self,
        attention: str | Mapping | Recipe | None = None,
        vocabulary: Vocabulary | None = None,
        aux_text_weight: float | None = None,
    ) -> "ITACLIPSegmentor":
        """A segmentor with another recipe or other words that shares this one's weights.

        This one stays as it is; what is None is taken over.
        """
        other = _sharing(self)
        if attention is not None:
            blocks = self.image_encoder.visual.transformer.resblocks
            self.image_encoder.prepare()  # so that a lowered copy of the weights is shared too
            other.image_encoder = _sharing(self.image_encoder)
            recipe = resolve_recipe(attention, len(blocks))
            recipe.check_width(self.image_encoder.visual.conv1.out_channels)
            other.image_encoder.recipe = recipe
        if vocabulary is not None or aux_text_weight is not None:
            weight = self.aux_text_weight if aux_text_weight is None else aux_text_weight
            other._use_words(vocabulary or self.vocabulary, weight)
        return other

    def _use_words(self, vocabulary: Vocabulary, aux_text_weight: float) -> None:
        self.aux_text_weight = _checked_weight(aux_text_weight)
        with stage("text"):
            if vocabulary.num_classes:
                features = self.text_encoder.vocabulary_features(
                    vocabulary, self.aux_text_weight, imagenet_templates(), self.text_cache
                )
            else:
                features = self.text_encoder.text_projection.new_zeros(0, 1)
        self.vocabulary = vocabulary
        self.register_buffer("text_features", features, persistent=False)  # Q, E
        names = vocabulary.first_names
        self.dataset_meta = {
            "classes": ("background", *names[1:]) if vocabulary.background else names,
            "palette": _palette(vocabulary.num_classes),
        }

    # ---- image → features → logits → scores -----------------------------------------------------

    @torch.no_grad()
    def extract_feat(self, inputs: Tensor) -> DenseFeatures:
        """Fused features of one image's windows, kept for any number of vocabularies.

        Args:
            inputs: (3, H, W) or (1, 3, H, W), CLIP-normalised.
        """
        image = inputs[0] if inputs.ndim == 4 else inputs
        windows = self._windows(image)
        with self._progress(windows):
            rows = list(self._row_features(image, windows))
        read = self.vocabulary if self.image_encoder.recipe.needs_text else None
        return DenseFeatures(windows, torch.cat(rows), read)

    @torch.no_grad()
    def query_logits(
        self, image: Tensor | DenseFeatures, output_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Cosine similarity of every pixel with every query, before refinement.

        Args:
            image: (3, H, W) CLIP-normalised, or what :meth:`extract_feat` made of it.
            output_size: (H, W) of the result; None takes the image's.

        Returns:
            (H, W, Q) fp32.
        """
        windows, rows = self._rows_of(image)
        # All windows first: the encoder's memory is free again before the output takes its own.
        maps = [self._similarities(features) for features in rows]
        output_size = output_size or windows.image_size
        large = self._output_elements(output_size) >= _MANY_ELEMENTS
        if large:
            trim_memory()
        logits = self._assembler(windows, output_size)(maps)
        if large:
            trim_memory()
        return logits

    def _rows_of(self, image: Tensor | DenseFeatures) -> tuple[WindowGrid, Iterable[Tensor]]:
        """The windows, and the fused features (K, h, w, E) of each row of them."""
        if not self.vocabulary.num_classes:
            raise InputError("vocabulary: there are no classes yet; give them by set_vocabulary().")
        if isinstance(image, DenseFeatures):
            if image.vocabulary not in (None, self.vocabulary):
                raise InputError(
                    "features: this recipe reads the words, and these features were made for "
                    "others; extract them again after set_vocabulary."
                )
            return image.windows, image.features.split(len(image.windows.lefts))
        windows = self._windows(image)
        return windows, self._row_features(image, windows)

    def _assembler(self, windows: WindowGrid, output_size: tuple[int, int]) -> WindowAssembler:
        patches = self.image_encoder.grid(windows.window)
        return WindowAssembler(windows, patches, output_size, self.text_features.device)

    def _similarities(self, features: Tensor) -> Tensor:
        """(…, E) → (…, Q)."""
        with stage("upsampling"):
            return features @ self.text_features.T

    def _windows(self, image: Tensor) -> WindowGrid:
        size = tuple(image.shape[-2:])
        return sliding_windows(size, *self.sliding) if self.sliding else whole_image(size)

    def _row_features(self, image: Tensor, windows: WindowGrid) -> Iterator[Tensor]:
        """Yields the fused features (K, h, w, E) of each row of windows, in order."""
        batches = run_in_batches(
            self._window_features,
            list(windows.crops(image)),
            self.window_batch,
            bytes_each=len(self.views) * self.image_encoder.bytes_per_pass(windows.window),
            passes_each=len(self.views),
        )
        per_row, waiting = len(windows.lefts), []
        for features in batches:
            advance(self._window_work())
            waiting.append(features)
            if len(waiting) == per_row:
                yield torch.stack(waiting)
                waiting = []

    def _window_work(self) -> int:
        return len(self.views) * _ELEMENTS_PER_PASS

    def _progress(
        self, windows: WindowGrid | None, output_size: tuple[int, int] = (0, 0)
    ) -> AbstractContextManager[None]:
        """The bar over one image's windows, if any are to be encoded, and output, if many."""
        count = 0 if windows is None else len(windows)
        many = count >= _MANY_WINDOWS or self._output_elements(output_size) >= _MANY_ELEMENTS
        return progress(count * self._window_work() + self._output_work(output_size), many)

    def _output_elements(self, size: tuple[int, int]) -> int:
        return size[0] * size[1] * len(self.text_features)

    def _output_work(self, size: tuple[int, int]) -> int:
        """Iterations and softmax."""
        iterations = self.pamr["num_iter"] if self.pamr else 0
        return self._output_elements(size) * (1 + iterations)

    def _window_features(self, crops: Sequence[Tensor]) -> Tensor:
        """Fused features (B, h, w, E) of windows [(3, H, W)] * B."""
        features = self.view_features(crops)
        with stage("views"):
            return fuse_features(features, self.views)

    def view_features(self, crops: Sequence[Tensor]) -> Tensor:
        """Normalised features of every view of windows [(3, H, W)] * B, in the views' frames.

        All that the image encoder does passes through here; what comes after is cheap, so that
        models that differ only there can share what this returns (see
        :mod:`itaclip.evaluation.ablation`).

        Returns:
            (V, B, h, w, E).
        """
        with stage("views"):
            batch = torch.stack(list(crops))
            inputs = torch.cat([view.apply(batch) for view in self.views])
        with stage("encoder"):
            features, _ = self.image_encoder(inputs, self.text_features)
            return F.normalize(features, dim=-1).unflatten(0, (len(self.views), -1))

    @torch.no_grad()
    def scores(self, logits: Tensor, guide: Tensor) -> Tensor:
        """Refinement, softmax, grouping and area rule.

        Args:
            logits: (H, W, Q); overwritten.
            guide: (3, H', W'), the normalised image that refinement follows.

        Returns:
            (H, W, C) in [0, 1].
        """
        scores = self._class_scores(logits, self._guide(guide, tuple(logits.shape[:2])))
        if self.area_thd is not None:
            with stage("post-processing"):
                scores.index_fill_(-1, small_classes(class_areas(scores), self.area_thd), 0)
        return scores

    def _guide(self, image: Tensor, size: tuple[int, int]) -> Tensor | None:
        """The image (3, H', W') at the output's size (3, H, W); None without refinement."""
        if self.pamr is None:
            return None
        with stage("refinement"):
            return F.interpolate(image[None].float(), size=size, mode="bilinear")[0]

    def _class_scores(self, logits: Tensor, guide: Tensor | None) -> Tensor:
        """Refinement, softmax and grouping: (H, W, Q), overwritten, and (3, H, W) → (H, W, C)."""
        if self.pamr is not None:
            logits = pamr(logits, guide, **self.pamr)
            if logits.numel() >= _MANY_ELEMENTS:
                trim_memory()
        with stage("post-processing"):
            return class_scores(logits, self.vocabulary.query_classes, self.logit_scale)

    @torch.no_grad()
    def labels(
        self, image: Tensor | DenseFeatures, output_size: tuple[int, int], guide: Tensor
    ) -> Tensor:
        """Labels (H, W) of one image without ever holding all its scores.

        The output is made in strips of rows, so that the labels are those of :meth:`scores`. With
        the area rule, strips are made twice where a class is left out.

        Args:
            image: (3, H', W') CLIP-normalised, or what :meth:`extract_feat` made of it.
            output_size: (H, W).
            guide: (3, H', W'), the normalised image that refinement follows.
        """
        windows, rows = self._rows_of(image)
        maps = [self._similarities(features) for features in rows]
        assemble = self._assembler(windows, output_size)
        guide = self._guide(guide, output_size)
        (height, width), queries = output_size, len(self.text_features)
        step = max(1, _STRIP_ELEMENTS // (width * queries))

        def strips() -> Iterator[Tensor]:
            strip = assemble.strips(maps)
            if self.pamr is not None:
                logits = pamr_strips(strip, queries, guide, **self.pamr)
            else:
                logits = (strip(top, min(top + step, height)) for top in range(0, height, step))
            for own in logits:
                with stage("post-processing"):
                    own = class_scores(own, self.vocabulary.query_classes, self.logit_scale)
                yield own

        def sweep(left_out: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
            parts, areas = [], 0
            for scores in strips():
                if left_out is not None:
                    scores.index_fill_(-1, left_out, 0)
                elif self.area_thd is not None:
                    areas = areas + class_areas(scores)
                parts.append(label_map(scores, self.prob_thd))
                del scores
            return torch.cat(parts), areas

        labels, areas = sweep()
        if self.area_thd is not None and len(left_out := small_classes(areas, self.area_thd)):
            extend(self._output_work(output_size))
            labels, _ = sweep(left_out)
        return labels

    @torch.no_grad()
    def segment(
        self,
        image: Tensor,
        output_size: tuple[int, int],
        features: DenseFeatures | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Labels and scores of one image.

        Args:
            image: (3, H', W') CLIP-normalised.
            output_size: (H, W).
            features: what :meth:`extract_feat` made of the image; None makes them.

        Returns:
            Labels (H, W), closed, and scores (H, W, C), None without ``return_scores``.
        """
        source, scores = image if features is None else features, None
        windows = self._windows(image) if features is None else None
        with self._progress(windows, output_size):
            if self.return_scores:
                scores = self.scores(self.query_logits(source, output_size), image)
                with stage("post-processing"):
                    labels = label_map(scores, self.prob_thd)
            else:
                labels = self.labels(source, output_size, image)
        if self.label_closing:
            with stage("post-processing"):
                labels = close_labels(labels, self.label_closing)
        return labels, scores

    # ---- mmseg's interface ----------------------------------------------------------------------

    @torch.no_grad()
    def predict(
        self,
        inputs: Tensor | Sequence[Tensor],
        data_samples: Sequence[SegDataSample] | None = None,
    ) -> list[SegDataSample]:
        """Segments a batch; images may differ in size.

        Args:
            inputs: (B, 3, H, W), or B tensors (3, H, W), CLIP-normalised.
            data_samples: with ``ori_shape`` (H, W) in their metainfo; without it, the input's size.

        Returns:
            The samples with ``seg_logits`` (C, H, W), the scores after softmax, grouping and area
            rule, and ``pred_sem_seg`` (1, H, W) integer labels, at the original size.
        """
        samples = data_samples or [SegDataSample() for _ in inputs]
        for image, sample in zip(inputs, samples, strict=True):
            image = _without_padding(image, sample.metainfo)
            output_size = tuple(sample.metainfo.get("ori_shape", image.shape[-2:])[:2])
            flip = _flipped_axis(sample.metainfo)
            labels, scores = self.segment(image, output_size)
            if flip is not None:
                labels, scores = (None if x is None else x.flip(flip) for x in (labels, scores))
            data = {"pred_sem_seg": PixelData(data=labels.unsqueeze(0))}
            if scores is not None:
                data["seg_logits"] = PixelData(data=scores.permute(2, 0, 1))
            sample.set_data(data)
        return list(samples)

    def encode_decode(self, inputs: Tensor, batch_data_samples: object = None) -> Tensor:
        """Query logits at the input's size, (B, Q, H, W), before refinement."""
        return torch.stack([self.query_logits(image).permute(2, 0, 1) for image in inputs])

    def _forward(self, inputs: Tensor, data_samples: object = None) -> Tensor:
        return self.encode_decode(inputs)

    def loss(self, inputs: Tensor, data_samples: object) -> dict:
        """Not available: the method is training-free."""
        raise NotImplementedError("ITACLIPSegmentor is training-free: it has no loss.")


def _sharing(module: torch.nn.Module) -> torch.nn.Module:
    """A module of its own with the same parameters, buffers and submodules."""
    other = copy.copy(module)
    for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        setattr(other, registry, copy.copy(getattr(module, registry)))
    return other


def _checked_weight(alpha: float) -> float:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise InputError(f"aux_text_weight: expected a number from 0 to 1 (α), but got {alpha!r}.")
    return alpha


def _without_padding(image: Tensor, meta: Mapping) -> Tensor:
    """Takes off what a data preprocessor padded, so that windows see the image alone."""
    padding = meta.get("img_padding_size") or meta.get("padding_size")
    if not padding:
        return image
    left, right, top, bottom = padding
    height, width = image.shape[-2:]
    return image[:, top : height - bottom, left : width - right]


def _flipped_axis(meta: Mapping) -> int | None:
    """The axis of (H, W) along which a test-time augmentation flipped the input."""
    if not meta.get("flip"):
        return None
    return 0 if meta.get("flip_direction") == "vertical" else 1


def _palette(classes: int) -> list[list[int]]:
    """Distinct colours (RGB, 0-255) for any number of classes: bits of the index, as in VOC."""
    palette = []
    for index in range(classes):
        colour = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                colour[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        palette.append(colour)
    return palette
