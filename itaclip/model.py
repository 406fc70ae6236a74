"""What the method is made of: weights, words, recipe and settings, and variants of them."""

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from .checks import flag
from .clip_model import facts_of, load_clip
from .data_preprocessor import CLIPDataPreprocessor
from .errors import InputError
from .features import check_together
from .guide import Guide, load_guide, parse_guide
from .image_encoder import ImageEncoder, sharing
from .recipes import Recipe, resolve_recipe
from .runtime.palette import palette_of
from .runtime.stages import stage
from .runtime.text_cache import TextCache
from .runtime.torch_state import WeightsStamp, undisturbed
from .settings import Settings
from .text_encoder import TextEncoder, imagenet_templates
from .vocabulary import Vocabulary, read_vocabulary

logger = logging.getLogger(__name__)


class Model(nn.Module):
    """A frozen CLIP with words, a recipe and settings.

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
        clip: Any = clip_model if loaded else load_clip(clip_model, clip_config)
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
        mean, std = ((v.flatten() / 255).tolist() for v in self._normalisation())
        sam, model = given.pop("sam", None), given.pop("model")
        made = load_guide(model, mean, std, **given)
        if sam is None:
            return made, made if made.is_sam else None
        return made, load_guide(sam, mean, std, key="guide.sam")

    def _normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the image's RGB on the scale 0-255, (3, 1, 1)."""
        return self.data_preprocessor.mean, self.data_preprocessor.std

    @property
    def settings(self) -> Settings:
        """Windows, views, thresholds; :meth:`variant` makes a segmentor with others."""
        return self._settings

    def to(self, *args: Any, **kwargs: Any) -> Self:
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
    ) -> Self:
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

    def without_text_tower(self) -> Self:
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
    def dataset_meta(self) -> dict[str, Any]:
        """Names and colours of the classes, for mmseg's helpers: always the vocabulary's."""
        names, background = self.vocabulary.first_names, self.vocabulary.background
        shown = ("background", *names[1:]) if background else names
        return {"classes": shown, "palette": [list(c) for c in palette_of(names, background)]}

    @dataset_meta.setter
    def dataset_meta(self, meta: object) -> None:
        """Without a checkpoint mmseg's helpers set those of Cityscapes: the vocabulary's stand."""


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
