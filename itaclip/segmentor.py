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

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .features import DenseFeatures, Passes
from .model import Model
from .postprocess import (
    class_areas,
    class_scores,
    close_labels,
    label_map,
    labels_of_strips,
    small_classes,
)
from .propagation import LPOSS, spread_over_patches, spread_over_pixels
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
from .refinement import refine, refine_strips
from .regions import Picture, pool
from .runtime.batches import trim_memory
from .runtime.stages import stage
from .runtime.torch_state import undisturbed
from .sliding_window import WindowAssembler, WindowGrid, whole_image


class Segmentor(Model):
    """Segments images into any vocabulary; its arguments are those of its :class:`Model`."""

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
            passes.guide_features() if self.joins_patches else None,
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
        source = image if isinstance(image, DenseFeatures) else self._passes(image)
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
            guide = source.guide if isinstance(source, DenseFeatures) else source.guide_features()
            if guide is None:
                raise InputError(
                    "features: these were made without propagation, which reads the guide's as "
                    "well; extract them again."
                )
            assert isinstance(wanted, LPOSS)
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
            if isinstance(image, DenseFeatures):
                output_size = windows.image_size
            else:
                height, width = image.shape[-2:]
                output_size = (height, width)
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

    @property
    def joins_patches(self) -> bool:
        """Whether features are kept with what the guide says for propagation over patches."""
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
            assert logits is not None  # such a rule needs all scores at once
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
        height, width = size

        def pixels() -> np.ndarray:
            shown = (image * preprocessor.std + preprocessor.mean)[None]
            shown = F.interpolate(shown, size=(height, width), mode="bilinear")[0].round()
            return shown.clamp(0, 255).permute(1, 2, 0).byte().cpu().numpy()

        return Picture((height, width), None, pixels, image.device)

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
