"""The eight benchmarks: where each lies and what prepares it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import ade, cityscapes, coco, context, voc
from .manifest import SplitReport
from .settings import Settings


@dataclass(frozen=True)
class Benchmark:
    """One row of the table.

    Attributes:
        title: its name in papers.
        tree: its folder below the data root, by MMSegmentation's convention.
        classes: number of classes, background included where there is one.
        images: number of images in each split.
        prepare: makes the splits asked for; benchmarks that share it share their files.
    """

    title: str
    tree: str
    classes: int
    images: dict[str, int]
    prepare: Callable[[Settings, Path], list[SplitReport]]


_VOC = {"val": 1449, "train": 1464}
_CONTEXT = {"val": 5104, "train": 4996}
_COCO = {"val": 5000, "train": 118287}
_CITYSCAPES = {"val": 500, "train": 2975}
_ADE = {"val": 2000, "train": 20210}

BENCHMARKS = {
    "voc21": Benchmark("PASCAL VOC, 21 classes", voc.TREE, 21, _VOC, voc.prepare),
    "voc20": Benchmark("PASCAL VOC, 20 classes", voc.TREE, 20, _VOC, voc.prepare),
    "context60": Benchmark("Pascal Context 60", context.TREE, 60, _CONTEXT, context.prepare),
    "context59": Benchmark("Pascal Context 59", context.TREE, 59, _CONTEXT, context.prepare),
    "coco_object": Benchmark("COCO-Object", coco.TREE, 81, _COCO, coco.prepare_object),
    "coco_stuff": Benchmark("COCO-Stuff 164k", coco.TREE, 171, _COCO, coco.prepare_stuff),
    "cityscapes": Benchmark("Cityscapes", cityscapes.TREE, 19, _CITYSCAPES, cityscapes.prepare),
    "ade20k": Benchmark("ADE20K", ade.TREE, 150, _ADE, ade.prepare),
}
