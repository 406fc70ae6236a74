"""What is done to every picture: a model with its words, made once and sent to every worker."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..errors import InputError
from ..predict.load import DEFAULT_MODEL, load
from ..predict.segmenter import Background, Classes
from ..segmentor import Segmentor
from .labeller import Labeller
from .stages import Spec

LABELS = ("png", "rle")


@dataclass(frozen=True)
class Job:
    """A model with its words, on the CPU and without its text tower, and how pictures meet it.

    Attributes:
        segmentor: with text features and thresholds.
        spec: of the stages around it.
        identity: ``model``, ``words`` and ``settings`` in plain types, for the manifest.
        description: a line.
    """

    segmentor: Segmentor
    spec: Spec
    identity: dict[str, Any]
    description: str

    def labeller(self, device: str) -> Labeller:
        return Labeller(self.segmentor.to(device), self.spec.max_result_side)


def make_job(
    model: str | None,
    classes: Classes | None,
    *,
    background: Background = None,
    auxiliary_texts: Mapping[str, str] | None = None,
    prob_thd: float | None = None,
    area_thd: float | None = None,
    labels: str = "png",
    **options: Any,
) -> Job:
    """Loads a model and encodes its words, both on the CPU, so that all devices get the same.

    Args:
        model, options: as for :func:`itaclip.load`, but for the device.
        classes, background, auxiliary_texts, prob_thd, area_thd: as for
            :meth:`itaclip.Segmenter.segment`.
        labels: ``'png'``, or ``'rle'``: a mask of every class in COCO's run-length code.

    Raises:
        InputError: a value that cannot be used.
    """
    if labels not in LABELS:
        raise InputError(f"labels: expected 'png' or 'rle', but got {labels!r}.")
    if labels == "rle" and find_spec("pycocotools") is None:
        raise InputError("labels='rle' takes pycocotools: pip install 'itaclip[outputs]'.")
    segmenter = load(model, device="cpu", **options)
    segmentor = segmenter.segmentor_for(
        classes,
        background=background,
        auxiliary_texts=auxiliary_texts,
        prob_thd=prob_thd,
        area_thd=area_thd,
    )
    vocabulary, shown = segmentor.vocabulary, segmentor.dataset_meta
    spec = Spec(
        classes=tuple(shown["classes"]),
        palette=tuple(map(tuple, shown["palette"])),
        short_side=segmenter.short_side,
        max_long_side=segmenter.max_long_side,
        max_result_side=segmenter.max_result_side,
        patch=segmentor.image_encoder.patch_size,
        labels=labels,
    )
    identity = {
        "model": {
            "name": str(model or options.get("config") or DEFAULT_MODEL),
            "weights_sha256": _weights_sha256(segmentor),
        },
        "words": {
            "classes": [list(names) for names in vocabulary.class_names],
            "background": vocabulary.background,
            "auxiliary_texts": list(vocabulary.auxiliary_texts),
        },
        "settings": _settings(segmentor)
        | {key: getattr(spec, key) for key in ("short_side", "max_long_side", "max_result_side")}
        | {"labels": labels},
    }
    description = segmenter.describe()
    return Job(segmentor.without_text_tower(), spec, identity, description)


def _weights_sha256(segmentor: Segmentor) -> str:
    sha = hashlib.sha256()
    for key, value in sorted(segmentor.image_encoder.state_dict().items()):
        sha.update(f"{key} {tuple(value.shape)}".encode())
        sha.update(value.detach().contiguous().view(-1).numpy())
    return sha.hexdigest()


def _settings(segmentor: Segmentor) -> dict[str, Any]:
    """What decides about labels beside weights, words and sizes, in plain types."""
    encoder = segmentor.image_encoder
    found = dataclasses.asdict(segmentor.settings)
    for key in ("window_batch", "return_scores"):  # change nothing but memory
        del found[key]
    found["recipe"] = {"type": type(encoder.recipe).__name__, **dataclasses.asdict(encoder.recipe)}
    found["precision"] = encoder.precision
    return _plain(found)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
