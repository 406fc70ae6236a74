"""Boundary IoU: how well the outlines fit (Cheng et al., CVPR 2021).

mIoU counts pixels, most of which lie far inside an area, so that it hardly sees what refinement
does. Boundary IoU counts those pixels of each mask alone that lie within d pixels of its outline.

Shapes: H, W pixels; C classes.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from ..checks import is_integer, number
from ..errors import InputError

_OUTSIDE, _IGNORED = -1, -2  # no labels


@METRICS.register_module()
class BoundaryIoUMetric(BaseMetric):
    """Mean boundary IoU over the classes, in percent: ``mBoundaryIoU``.

    Pixels of each class's intersection and union are summed over all images, as mmseg's
    ``IoUMetric`` does, and every class that occurs counts the same:

    * class 0 counts like the others, also where it is the background;
    * ignored pixels count nowhere; the edge of an ignored area is an outline of both masks;
    * the picture's edge is an outline, as in the publication's code;
    * a class that neither occurs in the masks nor is predicted, in all the images, does not count.

    Args:
        dilation: d as a share of the image's diagonal (the publication: 0.02); at least a pixel.
        ignore_index: label that is not scored.
        collect_device, prefix: as in mmengine.
    """

    def __init__(
        self,
        dilation: float = 0.02,
        ignore_index: int = 255,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        number(dilation, "BoundaryIoUMetric.dilation", 0, 1)
        if not is_integer(ignore_index):
            raise InputError(
                "BoundaryIoUMetric.ignore_index: expected a label, such as 255, but got "
                f"{ignore_index!r}."
            )
        self.dilation, self.ignore_index = dilation, ignore_index

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps each image's numbers of pixels: intersection, union, prediction, label (C,)."""
        classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            prediction = sample["pred_sem_seg"]["data"].squeeze(0).cpu()
            truth = sample["gt_sem_seg"]["data"].squeeze(0).cpu()
            areas = boundary_areas(prediction, truth, classes, self.dilation, self.ignore_index)
            # Named, since a bare tuple would be taken for the areas of mIoU.
            self.results.append({"boundary": areas})

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """The mean, and in the log a table of the classes."""
        if not results:
            return {}
        kept = zip(*(result["boundary"] for result in results), strict=True)
        intersection, union, *_ = (sum(a.double() for a in areas) for areas in kept)
        iou = intersection / union  # nan where a class does not occur
        table = PrettyTable()
        table.add_column("Class", list(self.dataset_meta["classes"]))
        table.add_column("BoundaryIoU", [round(100 * float(share), 2) for share in iou])
        print_log(f"boundary IoU, per class:\n{table.get_string()}", logger="current")
        return {"mBoundaryIoU": round(100 * float(iou.nanmean()), 2)}


def boundary_areas(
    prediction: Tensor,
    truth: Tensor,
    classes: int,
    dilation: float = 0.02,
    ignore_index: int = 255,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels of every class near the outlines of its two masks.

    With P, G the masks of a class and P_d, G_d those of their pixels within d pixels (in either
    direction) of their outlines: |P_d ∩ G_d|, |P_d ∪ G_d|, |P_d| and |G_d|.

    Args:
        prediction, truth: (H, W) labels.
        classes: C.
        dilation: d as a share of the diagonal.
        ignore_index: label of pixels that count nowhere.

    Returns:
        Four tensors (C,) fp32.
    """
    height, width = truth.shape
    distance = max(1, round(dilation * float(np.hypot(height, width))))
    ignored = truth.numpy() == ignore_index
    near = []
    for labels in (prediction, truth):
        values = labels.numpy().astype(np.float32)  # whole numbers below 2^24 are exact
        values[ignored] = _IGNORED
        band = outline_band(values, distance) & (values >= 0) & (values < classes)
        near.append(np.where(band, values, classes).astype(np.int64).ravel())
    predicted, labelled = near
    common = predicted[predicted == labelled]
    areas = [
        torch.from_numpy(np.bincount(v, minlength=classes + 1)[:classes]).double()
        for v in (common, predicted, labelled)
    ]
    intersection, of_prediction, of_label = areas
    union = of_prediction + of_label - intersection
    return tuple(a.float() for a in (intersection, union, of_prediction, of_label))


def outline_band(labels: np.ndarray, distance: int) -> np.ndarray:
    """Pixels of a label map within ``distance`` of another label or of the map's edge.

    For every class at once what the publication's code does for each: a mask without its erosion by
    a square of side 2d + 1, outside of which there is no mask.

    Args:
        labels: (H, W) float32.

    Returns:
        (H, W) bool.
    """
    padded = cv2.copyMakeBorder(
        labels, *(4 * (distance,)), borderType=cv2.BORDER_CONSTANT, value=_OUTSIDE
    )
    square = np.ones((2 * distance + 1, 1), np.uint8)
    low, high = padded, padded
    for kernel in (square, square.T):  # a square is separable
        low, high = cv2.erode(low, kernel), cv2.dilate(high, kernel)
    inner = (slice(distance, -distance),) * 2
    return low[inner] != high[inner]
