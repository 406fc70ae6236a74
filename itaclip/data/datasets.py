"""Data sets that mmseg lacks; their names differ from those in the papers' repositories.

Everything else needs no class: mmseg's own, or ``BaseSegDataset`` with ``metainfo`` in a config.
"""

from pathlib import Path

from mmseg.datasets import BaseSegDataset, COCOStuffDataset, PascalVOCDataset
from mmseg.registry import DATASETS

from ..runtime.text_cache import default_folder
from ..storybook import CLASSES, PALETTE, ensure_split


@DATASETS.register_module()
class COCOObject164kDataset(BaseSegDataset):
    """COCO-Object: the 80 things of COCO-Stuff 164k, and everything else as class 0.

    Unlabelled pixels (255 in COCO-Stuff) are background by the benchmark's protocol; nothing is
    ignored. Masks end in ``_instanceTrainIds.png``.
    """

    METAINFO = dict(
        classes=("background", *COCOStuffDataset.METAINFO["classes"][:80]),
        palette=[[0, 0, 0], *COCOStuffDataset.METAINFO["palette"][:80]],
    )

    def __init__(
        self, img_suffix: str = ".jpg", seg_map_suffix: str = "_instanceTrainIds.png", **kwargs
    ) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)


@DATASETS.register_module()
class VOC20Dataset(BaseSegDataset):
    """Pascal VOC without the background: its label 0 is ignored, 1 … 20 become 0 … 19."""

    METAINFO = dict(
        classes=PascalVOCDataset.METAINFO["classes"][1:],
        palette=PascalVOCDataset.METAINFO["palette"][1:],
    )

    def __init__(self, img_suffix: str = ".jpg", seg_map_suffix: str = ".png", **kwargs) -> None:
        super().__init__(
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, reduce_zero_label=True, **kwargs
        )


@DATASETS.register_module()
class StorybookDataset(BaseSegDataset):
    """Drawn scenes that ship with the project as code; a split is drawn where it is first used.

    Args:
        data_root: folder for the pictures. A relative one is never made in the root of the file
            system: there, the user's cache takes its place.
        split: ``'test'``; ``'train'`` or ``'val'`` for choosing settings.
    """

    METAINFO = dict(classes=CLASSES, palette=PALETTE)

    def __init__(self, data_root: str, split: str = "test", **kwargs) -> None:
        at_root = not Path(data_root).is_absolute() and Path.cwd().parent == Path.cwd()
        if at_root and not Path(data_root).exists():
            data_root = str(default_folder() / "storybook")
        ensure_split(data_root, split)
        super().__init__(
            data_root=data_root,
            data_prefix=dict(img_path=f"images/{split}", seg_map_path=f"annotations/{split}"),
            img_suffix=".png",
            seg_map_suffix=".png",
            **kwargs,
        )
