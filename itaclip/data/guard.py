"""Bad samples of a data set: named in one sentence, or left out and counted.

:func:`guard_loading` is put over a data loader just before it is used, so that users' own configs,
whose pipelines name mmseg's transforms, are guarded as the shipped ones are. Everything here goes
to the loader's processes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from torch.utils.data import DataLoader

from ..checks import is_integer
from ..errors import BadSampleError, InputError
from ..runtime.config import raised_at
from ..runtime.files import one_line
from .loading import LoadCheckedAnnotations, LoadCheckedImage

SKIPPED = "skipped_samples"
"""Key of a batch's list of :class:`SkippedSample`, where samples may be left out."""
_MEASURES = ("mIoU", "mDice", "mFscore")  # of mmseg's IoUMetric
_MAX_NAMED = 8  # labels named in one message


@dataclass(frozen=True)
class SkippedSample:
    """A sample that was left out: its image, and the sentence that says what is wrong."""

    image: str
    reason: str


@dataclass(frozen=True)
class LabelRules:
    """What a mask must be for its score to be right: its image's size, labels of known classes.

    Args:
        classes: labels go from 0 to ``classes - 1``,
        ignored: or are one of these, which are not scored.
    """

    classes: int
    ignored: frozenset[int]

    @classmethod
    def of(cls, metrics: Sequence[Any], classes: int) -> "LabelRules":
        """The rules of mmseg's metrics.

        Raises:
            InputError: a metric's settings would only fail, or count wrongly, at the end of a run.
        """
        for metric in metrics:
            wrong = [m for m in getattr(metric, "metrics", ()) if m not in _MEASURES]
            if wrong:
                raise InputError(
                    f"test_evaluator.iou_metrics: {wrong[0]!r} is unknown; expected a list of "
                    f"{', '.join(_MEASURES)}."
                )
            if not is_integer(metric.ignore_index):
                raise InputError(
                    "test_evaluator.ignore_index: expected a label, such as 255, but got "
                    f"{metric.ignore_index!r}."
                )
            if 0 <= metric.ignore_index < classes:
                raise InputError(
                    f"test_evaluator.ignore_index: {metric.ignore_index} is a class of these "
                    f"{classes} as well, and its pixels would never be scored; take one outside "
                    "the classes, such as 65535, and map to it what shall be ignored."
                )
        return cls(classes, frozenset(metric.ignore_index for metric in metrics))

    def check(self, sample: Any) -> None:
        """Checks a packed sample.

        Raises:
            InputError: no mask was loaded.
            BadSampleError: a mask of another size, or a label out of range.
        """
        if "gt_sem_seg" not in sample:
            raise InputError(
                f"{sample.img_path}: no mask was loaded, but IoUMetric needs one; add "
                "LoadAnnotations to the pipeline, or take test_evaluator=dict(_delete_=True, "
                "type='SaveLabels') to have labels without a score."
            )
        labels = sample.gt_sem_seg.data.squeeze(0).numpy()
        name = str(sample.get("seg_map_path") or sample.img_path)
        expected = tuple(sample.ori_shape[:2])
        if labels.shape != expected:
            turned = (
                " (turned: EXIF's orientation counts for images, not for masks)"
                if labels.shape == expected[::-1]
                else ""
            )
            raise BadSampleError(
                f"{name}: expected a mask of {expected[0]}x{expected[1]} pixels (height x width) "
                f"like its image, but it has {'x'.join(map(str, labels.shape))}{turned}; make it "
                "again.",
                name,
            )
        if labels.min() >= 0 and labels.max() < self.classes:
            return
        wrong = [
            value
            for value in np.unique(labels)
            if not 0 <= value < self.classes and value not in self.ignored
        ]
        if wrong:
            ignored = " or ".join(str(index) for index in sorted(self.ignored))
            more = f" and {len(wrong) - _MAX_NAMED} more" if len(wrong) > _MAX_NAMED else ""
            lowered = " after reduce_zero_label=True" if sample.get("reduce_zero_label") else ""
            raise BadSampleError(
                f"{name}: the mask holds the label {', '.join(map(str, wrong[:_MAX_NAMED]))}{more}"
                f"{lowered}, but labels go from 0 to {self.classes - 1}, or {ignored} to be "
                "ignored; convert the masks, or give LoadMappedAnnotations their raw values.",
                name,
            )


def guard_loading(
    loader: DataLoader, rules: LabelRules | None, patch: int = 1, skip: bool = False
) -> None:
    """Makes a data loader raise :class:`BadSampleError` for bad samples, or leave them out.

    Args:
        loader: not iterated over yet; its data set and ``collate_fn`` are changed.
        rules: what masks must hold; None where they are not scored.
        patch: smallest side in pixels, after resizing, that the model can take.
        skip: leave bad samples out and list them under :data:`SKIPPED` in every batch, whose
            ``inputs`` may then be empty.
    """
    guard_dataset(loader.dataset, rules, patch, skip)
    if skip and not isinstance(loader.collate_fn, LeaveOutSkipped):
        loader.collate_fn = LeaveOutSkipped(loader.collate_fn)


def guard_dataset(
    dataset: Any, rules: LabelRules | None, patch: int = 1, skip: bool = False
) -> None:
    """As :func:`guard_loading` for what is read without a loader; a skipped sample takes the place
    of its data.
    """
    if hasattr(dataset, "datasets"):  # a concatenation
        for part in dataset.datasets:
            guard_dataset(part, rules, patch, skip)
    elif hasattr(dataset, "pipeline"):
        transforms = getattr(dataset.pipeline, "transforms", None)
        if transforms is not None:
            dataset.pipeline = GuardedPipeline(transforms, rules, patch, skip)
    elif hasattr(dataset, "dataset"):  # mmengine's wrappers
        guard_dataset(dataset.dataset, rules, patch, skip)


class GuardedPipeline:
    """Transforms in a row, as mmengine's ``Compose``, that say which file they failed at."""

    def __init__(
        self,
        transforms: Sequence[Callable],
        rules: LabelRules | None = None,
        patch: int = 1,
        skip: bool = False,
    ) -> None:
        self.transforms = [_checked(transform) for transform in transforms]
        self.rules, self.patch, self.skip = rules, patch, skip

    def __call__(self, data: dict) -> dict | SkippedSample:
        image = str(data.get("img_path", ""))
        try:
            for transform in self.transforms:
                data = _applied(transform, data)
            self._check_size(data, image)
            if self.rules is not None:
                self.rules.check(data["data_samples"])
        except BadSampleError as error:
            if not self.skip:
                raise
            return SkippedSample(image, str(error))
        return data

    def _check_size(self, data: Mapping, image: str) -> None:
        inputs = data.get("inputs")
        if inputs is None or "data_samples" not in data:
            raise InputError(
                "test_dataloader.dataset.pipeline: gives no 'inputs' and 'data_samples'; expected "
                "it to end with dict(type='PackSegInputs')."
            )
        height, width = inputs.shape[-2:]
        if min(height, width) < self.patch:
            raise BadSampleError(
                f"{image}: the image is {height}x{width} pixels (height x width) after resizing, "
                f"but the model's patches have {self.patch}x{self.patch}; leave it out, or enlarge "
                "it in the pipeline.",
                image,
            )


def _checked(transform: Callable) -> Callable:
    """mmseg's own loading, made careful; anything else stays."""
    if type(transform) is LoadImageFromFile and transform.imdecode_backend == "cv2":
        return LoadCheckedImage(
            to_float32=transform.to_float32,
            color_type=transform.color_type,
            file_client_args=transform.file_client_args,
            backend_args=transform.backend_args,
        )
    if type(transform) is LoadAnnotations and transform.imdecode_backend == "pillow":
        return LoadCheckedAnnotations(
            reduce_zero_label=transform.reduce_zero_label, backend_args=transform.backend_args
        )
    return transform


def _applied(transform: Callable, data: Mapping) -> dict:
    """One step of the pipeline.

    Raises:
        BadSampleError: loading, or OpenCV, failed: the file is to blame.
        InputError: anything else failed: the step's settings or its code are.
    """
    name = type(transform).__name__
    file_errors = Exception if name.startswith("Load") else cv2.error
    try:
        done = transform(data)
    except InputError:
        raise
    except file_errors as error:
        raise _failed(name, data, one_line(error)) from error
    except Exception as error:
        raise InputError(
            f"test_dataloader.dataset.pipeline: {name} fails at {data.get('img_path')} "
            f"({raised_at(error)}); correct its settings."
        ) from error
    if done is None:
        raise _failed(name, data, "it gave nothing back")
    return done


def _failed(name: str, data: Mapping, reason: str) -> BadSampleError:
    path = str(data.get("seg_map_path" if "Annotation" in name else "img_path") or "")
    shape = data.get("ori_shape")
    size = f" of {shape[0]}x{shape[1]} pixels (height x width)" if shape else ""
    return BadSampleError(
        f"{path}: {name} cannot use this file{size} ({reason}); mend the file, or the pipeline.",
        path,
    )


class LeaveOutSkipped:
    """A ``collate_fn`` that keeps skipped samples out of the batch and lists them beside it."""

    def __init__(self, collate: Callable[[Sequence], dict]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[dict | SkippedSample]) -> dict:
        kept = [sample for sample in samples if not isinstance(sample, SkippedSample)]
        batch = self.collate(kept) if kept else {"inputs": [], "data_samples": []}
        skipped = [sample for sample in samples if isinstance(sample, SkippedSample)]
        return {**batch, SKIPPED: skipped}
