"""The method: text once, then views → windows → features → scores → labels.

mmseg registers it as :class:`itaclip.mmseg_segmentor.ITACLIPSegmentor`; nothing here needs mmseg.

The steps of one image, and where further ones go (each a module of its own, a key of
:class:`itaclip.settings.Settings`, and a line at the seam)::

    image → windows → views → features          extract_feat      a guide's features: DenseFeatures
          → similarities                        similarity_maps   propagation over patches
          → logits at the output's size         query_logits      ways in which windows meet
          → refinement                          scores            propagation over pixels
          → class pruning, softmax, grouping
          → scores: regions' means, area rule   final_scores
          → labels: best score, closing, votes  segment

A step that needs all scores at once makes ``return_scores=False`` impossible or costly: labels are
then made in strips of rows (:meth:`Segmentor.labels`), so it says so when settings are made.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import flag
from .clip_model import facts_of, load_clip
from .data_preprocessor import CLIPDataPreprocessor
from .errors import InputError
from .features import DenseFeatures, Passes, check_together
from .guide import Guide, load_guide, parse_guide
from .image_encoder import ImageEncoder, sharing
from .postprocess import (
    class_areas,
    class_scores,
    close_labels,
    label_map,
    labels_of_strips,
    small_classes,
)
from .propagation import spread_over_patches, spread_over_pixels
from .pruning import (
    MaxScore,
    Oracle,
    Presence,
    by_class,
    leave_out,
    presence,
    score_maxima,
    with_background,
)
from .recipes import Recipe, resolve_recipe
from .refinement import refine, refine_strips
from .regions import Picture, pool
from .runtime.batches import trim_memory
from .runtime.palette import palette_of
from .runtime.stages import stage
from .runtime.text_cache import TextCache
from .runtime.torch_state import WeightsStamp, undisturbed
from .settings import Settings
from .sliding_window import WindowAssembler, WindowGrid, whole_image
from .text_encoder import TextEncoder, imagenet_templates
from .vocabulary import Vocabulary, read_vocabulary

logger = logging.getLogger(__name__)


class Segmentor(nn.Module):
    """Segments images into any vocabulary with a frozen CLIP.

    Args:
        clip_model: OpenAI's name, ``'storybook-tiny'``, ``'hf:OWNER/NAME[@REVISION]'``, a folder
            that describes its model, the path of a checkpoint (see
            :func:`itaclip.clip_model.load_clip`), or a loaded model, which is taken over.
        name_path: class-name file, a line per class, names separated by commas.
        background: class 0 is "everything else"; it takes no auxiliary text.
        auxiliary_text_path: file of lines ``name >= text``; None = off.
        attention: a recipe's name, or ``dict(recipe=name, …)`` to vary one.
        precision: ``'auto'``, ``'fp32'``, ``'bf16'`` or ``'fp16'`` of the encoder's blocks.
        aux_text_weight, image_engineering_weight, logit_scale, prob_thd, margin_thd, area_thd,
            label_closing, pamr, regions, class_pruning, propagation, test_cfg, window_batch,
            return_scores: see :class:`itaclip.settings.Settings`.
        guide: a second backbone: a name of :data:`itaclip.guide.GUIDES`, ``'hf:OWNER/NAME'``, a
            folder in Hugging Face layout, or ``dict(model=…, …)``, see
            :func:`itaclip.guide.parse_guide`; None = off.
        vocabulary: given instead of ``name_path`` and ``auxiliary_text_path`` from Python;
            ``Vocabulary.empty()`` leaves the classes to :meth:`set_vocabulary`.
        text_cache: keep text features on disk for later starts.
        clip_config: what weights that do not describe themselves are computed with:
            ``dict(activation='quick_gelu', vision_heads=12, text_heads=8, mean=…, std=…)``.
        pretrained, train_cfg, init_cfg: accepted because mmseg's helpers pass them; must be None.
        data_preprocessor: as in mmseg; by default BGR → RGB and the model's mean and deviation.

    Raises:
        InputError: any value that cannot be used, naming the key or the file and line.
    """

    @undisturbed()
    def __init__(
        self,
        clip_model: str | Path | nn.Module = "ViT-B/16",
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
        regions: Mapping | None = None,
        class_pruning: Mapping | None = None,
        propagation: str | Mapping | None = None,
        guide: str | Path | Mapping | Guide | None = None,
        precision: str = "fp32",
        test_cfg: Mapping | None = None,
        vocabulary: Vocabulary | None = None,
        text_cache: bool = True,
        window_batch: int | None = None,
        return_scores: bool = True,
        margin_thd: float = 0.0,
        clip_config: Mapping | None = None,
        pretrained: None = None,
        train_cfg: None = None,
        data_preprocessor: Mapping | nn.Module | None = None,
        init_cfg: None = None,
    ) -> None:
        given = dict(locals())
        for key in ("pretrained", "train_cfg", "init_cfg"):
            if given[key]:
                raise InputError(
                    f"{key}: expected None, since nothing is trained or loaded here, but got "
                    f"{given[key]!r}; the weights are named by clip_model."
                )
        super().__init__()
        self.data_preprocessor = _preprocessor(data_preprocessor)
        self._settings = Settings(**{f.name: given[f.name] for f in fields(Settings)})
        self.text_cache = TextCache() if flag(text_cache, "text_cache") else None
        background = flag(background, "background")
        if vocabulary is None:
            vocabulary = read_vocabulary(name_path, auxiliary_text_path, background)
        abstains = next((key for key in ("prob_thd", "margin_thd") if given[key] > 0), None)
        if abstains and vocabulary.num_classes and not vocabulary.background:
            logger.warning(
                "%s=%s turns unsure pixels into class 0, %r, though background=False.",
                abstains,
                given[abstains],
                vocabulary.first_names[0],
            )

        loaded = isinstance(clip_model, nn.Module)
        clip = clip_model if loaded else load_clip(clip_model, clip_config)
        facts = facts_of(clip)
        if isinstance(self.data_preprocessor, CLIPDataPreprocessor):
            self.data_preprocessor.follow(facts)
        self.name = facts.source if not loaded else getattr(clip, "source", "the model")
        recipe = resolve_recipe(attention, len(clip.visual.transformer.resblocks))
        guide, sam = self._load_guides(guide)
        if guide is None and (warning := facts.depth_warning()) is not None:
            logger.warning("%s", warning)
        self.image_encoder = ImageEncoder(clip.visual, recipe, precision, guide, sam)
        check_together(recipe, self.settings, self.image_encoder)
        self.text_encoder = TextEncoder(clip)
        self._use_words(vocabulary)

    def _load_guides(
        self, guide: str | Path | Mapping | Guide | None
    ) -> tuple[Guide | None, Guide | None]:
        """The second backbone, and SAM's encoder if one is there, too."""
        if isinstance(guide, Guide):
            return guide, guide if guide.is_sam else None
        given = parse_guide(guide)
        if given is None:
            return None, None
        clip = [(v.flatten() / 255).tolist() for v in self._normalisation()]
        sam, model = given.pop("sam", None), given.pop("model")
        made = load_guide(model, *clip, **given)
        if sam is None:
            return made, made if made.is_sam else None
        return made, load_guide(sam, *clip, key="guide.sam")

    def _normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the image's RGB on the scale 0-255, (3, 1, 1)."""
        return self.data_preprocessor.mean, self.data_preprocessor.std

    @property
    def settings(self) -> Settings:
        """Windows, views, thresholds; :meth:`variant` makes a segmentor with others."""
        return self._settings

    def to(self, *args: Any, **kwargs: Any) -> "Segmentor":
        """Moves the model, as every module.

        Raises:
            InputError: Apple's ``mps``, which has no double precision.
        """
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None and device.type == "mps":
            raise InputError("device: 'mps' is not supported; give 'cpu', or 'cuda' where it is.")
        return super().to(*args, **kwargs)

    @undisturbed()
    def variant(
        self,
        attention: str | Mapping | Recipe | None = None,
        vocabulary: Vocabulary | None = None,
        settings: Settings | None = None,
        image_encoder: ImageEncoder | None = None,
        **changes: Any,
    ) -> "Segmentor":
        """Another segmentor on the same weights; this one stays as it is.

        Args:
            attention: another recipe; None takes this one's.
            vocabulary: other words; None takes this one's.
            settings: None takes this one's.
            image_encoder: instead of ``attention``, an encoder on the same weights.
            changes: other values for keys of the settings, such as ``pamr=None``.

        Raises:
            InputError: a value that cannot be used.
        """
        other = sharing(self)
        if image_encoder is not None:
            other.image_encoder = image_encoder
        elif attention is not None:
            other.image_encoder = self.image_encoder.variant(attention)
        other._settings = (settings or self.settings).changed(changes)
        encoder = other.image_encoder
        check_together(encoder.recipe, other.settings, encoder)
        blend = other.settings.aux_text_weight != self.settings.aux_text_weight
        if vocabulary is not None or blend:
            other._use_words(vocabulary or self.vocabulary)
        return other

    def without_text_tower(self) -> "Segmentor":
        """Another one with these words for good: all that a process needs to label pictures."""
        other = sharing(self)
        other.text_encoder = other._text_weights = None
        return other

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Takes other words in place, for mmseg's helpers, which hold the model.

        No other thread may use it meanwhile: elsewhere, :meth:`variant`.
        """
        self._use_words(vocabulary)

    @undisturbed()
    def _use_words(self, vocabulary: Vocabulary) -> None:
        alpha = self.settings.aux_text_weight
        with stage("text"):
            if vocabulary.num_classes:
                features = self.text_encoder.vocabulary_features(
                    vocabulary, alpha, imagenet_templates(), self.text_cache
                )
            else:
                features = self.text_encoder.text_projection.new_zeros(0, 1)
        if not features.isfinite().all():
            raise InputError(self._not_finite("text"))
        self.vocabulary, self._text_weights = vocabulary, WeightsStamp(self.text_encoder)
        self.register_buffer("text_features", features, persistent=False)  # Q, E

    def _not_finite(self, what: str) -> str:
        precision = str(self.image_encoder.dtype if what == "image" else torch.float32)[6:]
        remedy = "give other weights" if precision == "float32" else "set precision='fp32'"
        return (
            f"{self.name}: its {what} features overflow in {precision}: they are not finite, so "
            f"that every score would be as well; {remedy}."
        )

    def _queries(self) -> Tensor:
        """The text features (Q, E), made anew where other weights were loaded since."""
        encoder = self.text_encoder
        if encoder is not None and not self._text_weights.holds(encoder):
            self._use_words(self.vocabulary)
        return self.text_features

    @property
    def dataset_meta(self) -> dict[str, tuple]:
        """Names and colours of the classes, for mmseg's helpers: always the vocabulary's."""
        names, background = self.vocabulary.first_names, self.vocabulary.background
        shown = ("background", *names[1:]) if background else names
        return {"classes": shown, "palette": [list(c) for c in palette_of(names, background)]}

    @dataset_meta.setter
    def dataset_meta(self, meta: object) -> None:
        """Without a checkpoint mmseg's helpers set those of Cityscapes: the vocabulary's stand."""

    # ---- image → features → logits → scores -----------------------------------------------------

    @undisturbed()
    def extract_feat(self, inputs: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Fused features of one image's windows, kept for any number of vocabularies.

        Args:
            inputs: (3, H, W) or (1, 3, H, W), CLIP-normalised.
            regions: (H', W') int64 over the same picture, for recipes that need them.
        """
        passes = self._passes(inputs[0] if inputs.ndim == 4 else inputs, regions)
        rows = list(passes.rows())
        read = self.vocabulary if self.image_encoder.recipe.needs_text else None
        cls = rows[0].cls
        if cls is not None and len(cls) == len(rows[0].features):
            cls = torch.cat([row.cls for row in rows])
        return DenseFeatures(
            passes.windows,
            torch.cat([row.features for row in rows]),
            read,
            cls,
            passes.guide_features() if self._joins_patches() else None,
            passes.image,
        )

    @undisturbed()
    def similarity_maps(self, image: Tensor | DenseFeatures) -> tuple[WindowGrid, list[Tensor]]:
        """Cosine similarities of every window's patches with every query, propagated if asked for.

        Args:
            image: (3, H, W) CLIP-normalised, or what :meth:`extract_feat` made of it.

        Returns:
            The grid of R·K windows, and for each of its R rows the maps (K, h, w, Q). After a
            propagation over pixels it is one window, whose patches are the pixels.
        """
        self._check_words(image)
        kept = isinstance(image, DenseFeatures)
        source = image if kept else self._passes(image)
        recipe, windows, maps = self.image_encoder.recipe, source.windows, []
        text = self._queries()
        for row in source.rows():
            with stage("upsampling"):
                maps.append(recipe.similarities(row.features, text, row.cls))
        # One question for all windows, so that a GPU is waited for once an image.
        if not torch.stack([own.isfinite().all() for own in maps]).all():
            raise InputError(self._not_finite("image"))
        wanted = self.settings.propagation
        if wanted is None:
            return windows, maps
        if wanted.patches:
            guide = source.guide if kept else source.guide_features()
            maps = spread_over_patches(windows, maps, guide, wanted)
        if wanted.pixels:
            logits = self._assembler(windows, maps, windows.image_size)(maps)
            mean, std = self._normalisation()
            picture = (source.image * std + mean).clamp(0, 255) / 255
            logits = spread_over_pixels(logits, picture, text, wanted)
            windows, maps = replace(whole_image(windows.image_size), straight=True), [logits[None]]
        return windows, maps

    @undisturbed()
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
        # All windows first: the encoder's memory is free again before the output takes its own.
        windows, maps = self.similarity_maps(image)
        if output_size is None:
            kept = isinstance(image, DenseFeatures)
            output_size = windows.image_size if kept else tuple(image.shape[-2:])
        elements = output_size[0] * output_size[1] * len(self.text_features)
        trim_memory(elements)
        logits = self._assembler(windows, maps, output_size)(maps)
        trim_memory(elements)
        return logits

    def _check_words(self, image: Tensor | DenseFeatures) -> None:
        if not self.vocabulary.num_classes:
            raise InputError(
                "vocabulary: there are no classes yet; give them by variant(vocabulary=…)."
            )
        if isinstance(image, DenseFeatures) and image.vocabulary not in (None, self.vocabulary):
            raise InputError(
                "features: this recipe reads the words, and these features were made for "
                "others; extract them again with these words."
            )

    def _passes(self, image: Tensor, regions: Tensor | None = None) -> Passes:
        image, text = image.float(), self._queries()
        return Passes(image, self.image_encoder, self.settings, text, regions)

    def _joins_patches(self) -> bool:
        return self.settings.propagation is not None and self.settings.propagation.patches

    def _assembler(
        self, windows: WindowGrid, maps: Sequence[Tensor], output_size: tuple[int, int]
    ) -> WindowAssembler:
        patches = tuple(maps[0].shape[1:3])
        return WindowAssembler(windows, patches, output_size, self.text_features.device)

    @undisturbed()
    def scores(self, logits: Tensor, guide: Tensor, picture: Picture | None = None) -> Tensor:
        """From logits to class scores: refinement, pruning, softmax, grouping, regions, area rule.

        Propagation over pixels goes beside the refinement.

        Args:
            logits: (H, W, Q); overwritten.
            guide: (3, H', W'), the normalised image that refinement follows.
            picture: what pruning and regions may ask about it; None knows the image alone.

        Returns:
            (H, W, C) in [0, 1].
        """
        settings, owners = self.settings, self.vocabulary.query_classes
        if logits.is_inference():  # cannot be overwritten here
            logits = logits.clone()
        kept = self._present(guide, logits, picture)
        logits = refine(logits, guide, settings.pamr)
        with stage("post-processing"):
            if isinstance(settings.class_pruning, MaxScore):
                best = by_class(score_maxima(logits, settings.logit_scale), owners)
                kept = settings.class_pruning.kept(best)
            if kept is not None:
                kept = with_background(kept, self.vocabulary.background)
                logits = leave_out(logits, kept, owners)
            scores = class_scores(logits, owners, settings.logit_scale)
            return self.final_scores(scores, picture or self.picture(guide, scores.shape[:2]))

    def _present(
        self, image: Tensor, logits: Tensor | None, picture: Picture | None
    ) -> Tensor | None:
        """Which classes take part, (C,) bool, as far as it is known before refinement."""
        rule, owners = self.settings.class_pruning, self.vocabulary.query_classes
        if isinstance(rule, Oracle):
            if picture is None or picture.truth is None:
                raise InputError(
                    "class_pruning: 'oracle' reads the ground truth, which this picture lacks; "
                    "take another rule, or an evaluation with masks."
                )
            return rule.kept(picture.truth, self.vocabulary.num_classes)
        if isinstance(rule, Presence):
            with stage("encoder"):
                own = self.image_encoder.global_feature(image) @ self.text_features.T  # Q
            own, best = by_class(own, owners), by_class(logits.flatten(0, 1).amax(0), owners)
            found = presence(own, best, self.settings.logit_scale)
            return rule.kept(found, self.vocabulary.background)
        return None

    def final_scores(self, scores: Tensor, picture: Picture) -> Tensor:
        """Class scores (H, W, C), overwritten, after all rules about whole classes or regions."""
        regions = self.settings.regions
        if regions is not None and regions.rule == "mean":
            scores = pool(scores, regions.map(picture, tuple(scores.shape[:2])))
        if self.settings.area_thd is not None:
            small = small_classes(class_areas(scores), self.settings.area_thd)
            scores.index_fill_(-1, small, 0)
        return scores

    def final_labels(self, labels: Tensor, scores: Tensor | None, picture: Picture) -> Tensor:
        """Labels (H, W) after closing and the regions' rules about labels, which come last."""
        settings = self.settings
        if settings.label_closing:
            labels = close_labels(labels, settings.label_closing)
        if settings.regions is not None:
            labels = settings.regions.relabel(labels, scores, picture)
        return labels

    def picture(self, image: Tensor, size: Sequence[int]) -> Picture:
        """What an image (3, H', W') itself says about the picture of ``size`` (H, W)."""
        preprocessor = self.data_preprocessor

        def pixels() -> np.ndarray:
            shown = (image * preprocessor.std + preprocessor.mean)[None]
            shown = F.interpolate(shown, size=tuple(size), mode="bilinear")[0].round()
            return shown.clamp(0, 255).permute(1, 2, 0).byte().cpu().numpy()

        return Picture(tuple(size), None, pixels, image.device)

    @undisturbed()
    def labels(
        self,
        image: Tensor | DenseFeatures,
        output_size: tuple[int, int],
        guide: Tensor,
        picture: Picture | None = None,
    ) -> Tensor:
        """Labels (H, W) of one image without ever holding all its scores.

        The output is made in strips of rows, so that the labels are those of :meth:`scores`.

        Args:
            image: (3, H', W') CLIP-normalised, or what :meth:`extract_feat` made of it.
            output_size: (H, W).
            guide: (3, H', W'), the normalised image that refinement follows.
            picture: as for :meth:`scores`.
        """
        settings, owners = self.settings, self.vocabulary.query_classes
        kept = self._present(guide, None, picture)
        if kept is not None:
            kept = with_background(kept, self.vocabulary.background)
        windows, maps = self.similarity_maps(image)
        assembler = self._assembler(windows, maps, output_size)
        shape = (*output_size, maps[0].shape[-1])

        def strips() -> Iterator[Tensor]:
            for logits in refine_strips(assembler.strips(maps), shape, guide, settings.pamr):
                with stage("post-processing"):
                    if kept is not None:
                        logits = leave_out(logits, kept, owners)
                    scores = class_scores(logits, owners, settings.logit_scale)
                yield scores

        return labels_of_strips(strips, settings.prob_thd, settings.area_thd, settings.margin_thd)

    @undisturbed()
    def segment(
        self,
        image: Tensor,
        output_size: tuple[int, int],
        features: DenseFeatures | None = None,
        picture: Picture | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Labels and scores of one image.

        Args:
            image: (3, H', W') CLIP-normalised.
            output_size: (H, W).
            features: what :meth:`extract_feat` made of the image; None makes them.
            picture: what pruning and regions may ask about it; None knows the image alone.

        Returns:
            Labels (H, W), after closing and regions, and scores (H, W, C), None without
            ``return_scores``.
        """
        settings, scores = self.settings, None
        picture = picture or self.picture(image, output_size)
        if features is None and self.image_encoder.recipe.needs_regions:
            features = self.extract_feat(image, settings.regions and settings.regions.map(picture))
        source = image if features is None else features
        if settings.return_scores or settings.needs_all_scores:
            scores = self.scores(self.query_logits(source, output_size), image, picture)
            with stage("post-processing"):
                labels = label_map(scores, settings.prob_thd, settings.margin_thd)
        else:
            labels = self.labels(source, output_size, image, picture)
        with stage("post-processing"):
            labels = self.final_labels(labels, scores, picture)
        return labels, scores if settings.return_scores else None


def _preprocessor(given: Mapping | nn.Module | None) -> nn.Module:
    if given is None:
        return CLIPDataPreprocessor()
    if isinstance(given, nn.Module):
        return given
    if not isinstance(given, Mapping):
        raise InputError(
            f"data_preprocessor: expected None, a dict with a type or a module, but got {given!r}."
        )
    from mmseg.registry import MODELS

    return MODELS.build(given)
