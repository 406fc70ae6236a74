"""Hooks of mmengine's Runner: memory, checks before a run, overlays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmcv import imread
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from ..errors import InputError
from ..runtime.batches import trim_memory
from ..runtime.pictures import contact_sheet, overlay_with_legend, save_picture
from .runs import Run


@HOOKS.register_module()
class TrimMemoryHook(Hook):
    """Gives freed memory back to the system after every image (see :func:`trim_memory`)."""

    def after_test_iter(self, *args: object, **kwargs: object) -> None:
        trim_memory()


@HOOKS.register_module()
class CheckClassesHook(Hook):
    """Refuses a run whose model and data set have different numbers of classes."""

    def before_test(self, runner: Runner) -> None:
        dataset = runner.test_dataloader.dataset
        classes = dataset.metainfo["classes"]
        vocabulary = getattr(_unwrapped(runner.model), "vocabulary", None)
        if vocabulary is not None and vocabulary.num_classes != len(classes):
            raise InputError(
                f"model.name_path: the file has {vocabulary.num_classes} classes "
                f"({vocabulary.source_of(0)} …), but {type(dataset).__name__} has {len(classes)}; "
                "give a line for every class of the data set, in its order."
            )


def _unwrapped(model):
    return getattr(model, "module", model)


@HOOKS.register_module()
class OverlayHook(Hook):
    """Writes prediction beside ground truth for every image, and a sheet of the first ones.

    Args:
        folder: where; one PNG per image, and ``sheet.png``.
        every_image: False writes the sheet alone.
        sheet: number of images on it.
        opacity: of the labels over the image, 0 to 1.
    """

    def __init__(
        self, folder: str, every_image: bool = True, sheet: int = 8, opacity: float = 0.6
    ) -> None:
        self.folder, self.every_image = Path(folder), every_image
        self.sheet, self.opacity = sheet, opacity
        self._tiles: dict[int, np.ndarray] = {}

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        meta = runner.test_dataloader.dataset.metainfo
        run = _run_of(runner)
        for number, sample in enumerate(outputs or ()):
            if run is None:  # in another loop than eval.py's
                place = len(self._tiles)
                wanted = place < self.sheet
            else:
                place = runner.test_loop.batch_indices[number]
                wanted = place in run.selection.indices[: self.sheet]
            if not (self.every_image or wanted):
                continue
            image = imread(sample.img_path, channel_order="rgb")
            truth = sample.gt_sem_seg.data[0].cpu().numpy() if "gt_sem_seg" in sample else None
            prediction = sample.pred_sem_seg.data[0].cpu().numpy()
            picture = overlay_with_legend(
                image, prediction, meta["classes"], meta["palette"], truth, self.opacity
            )
            if self.every_image:
                save_picture(self.folder / f"{Path(sample.img_path).stem}.png", picture)
            if wanted:
                self._tiles[place] = picture
                if run is not None:  # for a later start, should this one be stopped
                    save_picture(_tiles_of(run) / f"{place:08d}.png", picture)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        tiles, run = self._tiles, _run_of(runner)
        self._tiles = {}
        if run is not None:
            kept = {
                int(path.stem): imread(path, channel_order="rgb")
                for path in (_tiles_of(run).glob("*.png") if run.processes.leader else ())
                if int(path.stem) not in tiles
            }
            gathered = run.processes.gather({**kept, **tiles})
            tiles = {place: tile for part in gathered for place, tile in part.items()}
        if tiles and is_main_process():
            pictures = [tiles[place] for place in sorted(tiles)]
            path = save_picture(self.folder / "sheet.png", contact_sheet(pictures))
            runner.logger.info(f"Overlays: {path}")


def _run_of(runner: Runner) -> Run | None:
    return getattr(runner.test_loop, "evaluation", None)


def _tiles_of(run: Run) -> Path:
    """Pictures for the sheet, of all starts of a run."""
    return run.folder / "sheet"
