"""The benchmarks: one table for configs, checks, preparation and published figures.

Imports nothing heavy: ``prepare --help`` reads it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Benchmark:
    """One row of the table.

    Attributes:
        name: in file names and on the command line.
        label: in the papers' tables.
        title: in full.
        dataset: the data set's class.
        classes: number of classes, background included where there is one.
        images: number of images in each split.
        folder: of its files below the data root, by MMSegmentation's convention.
        recipe: what prepares it, ``module.function`` of :mod:`itaclip.data.preparation`; benchmarks
            that share it share their files. Empty where nothing needs to be prepared.
    """

    name: str
    label: str
    title: str
    dataset: str
    classes: int
    images: dict[str, int]
    folder: str
    recipe: str = ""

    def prepare(self) -> Callable[..., Any]:
        """The function that makes the splits asked for."""
        module, function = self.recipe.split(".")
        return getattr(importlib.import_module(f"{__package__}.preparation.{module}"), function)

    def config(self, method: str = "ITACLIP") -> str:
        """Where this project's config of a method on this benchmark lies, if there is one."""
        folder = method.lower().replace("-", "").replace(" ", "_")
        return f"configs/{'' if method == 'ITACLIP' else folder + '/'}cfg_{self.name}.py"


_VOC = {"val": 1449, "train": 1464}
_CONTEXT = {"val": 5104, "train": 4996}
_COCO = {"val": 5000, "train": 118287}
_VOC12, _VOC10, _COCO_FOLDER = "VOCdevkit/VOC2012", "VOCdevkit/VOC2010", "coco_stuff164k"
_ADE = "ade/ADEChallengeData2016"

# In the order of the papers' tables.
# fmt: off
_ROWS = (
    Benchmark("voc21", "VOC21", "PASCAL VOC, 21 classes", "PascalVOCDataset",
              21, _VOC, _VOC12, "voc.prepare"),
    Benchmark("context60", "Context60", "Pascal Context 60", "PascalContextDataset",
              60, _CONTEXT, _VOC10, "context.prepare"),
    Benchmark("coco_object", "COCO-Object", "COCO-Object", "COCOObject164kDataset",
              81, _COCO, _COCO_FOLDER, "coco.prepare_object"),
    Benchmark("voc20", "VOC20", "PASCAL VOC, 20 classes", "VOC20Dataset",
              20, _VOC, _VOC12, "voc.prepare"),
    Benchmark("cityscapes", "Cityscapes", "Cityscapes", "CityscapesDataset",
              19, {"val": 500, "train": 2975}, "cityscapes", "cityscapes.prepare"),
    Benchmark("context59", "Context59", "Pascal Context 59", "PascalContextDataset59",
              59, _CONTEXT, _VOC10, "context.prepare"),
    Benchmark("ade20k", "ADE20K", "ADE20K", "ADE20KDataset",
              150, {"val": 2000, "train": 20210}, _ADE, "ade.prepare"),
    Benchmark("coco_stuff", "COCO-Stuff", "COCO-Stuff 164k", "COCOStuffDataset",
              171, _COCO, _COCO_FOLDER, "coco.prepare_stuff"),
    Benchmark("storybook", "Storybook", "Storybook, drawn at first use", "StorybookDataset",
              20, {"test": 200}, "storybook"),
)
# fmt: on
BENCHMARKS: dict[str, Benchmark] = {row.name: row for row in _ROWS}
PREPARED = tuple(row.name for row in _ROWS if row.recipe)
"""Names of the benchmarks that are made from downloads."""


def by_dataset(dataset: str | None) -> Benchmark | None:
    """The benchmark that a data set's class belongs to; None for data of one's own."""
    return next((row for row in _ROWS if row.dataset == dataset), None)


def by_label(label: str | None) -> Benchmark | None:
    """The benchmark of a name in the papers' tables; None for others."""
    return next((row for row in _ROWS if row.label == label), None)
