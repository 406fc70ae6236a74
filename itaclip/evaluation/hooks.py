"""Hooks of mmengine's Runner: memory, checks before a run, overlays."""

from collections.abc import Sequence
from pathlib import Path

from mmcv import imread
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from ..errors import InputError
from ..runtime.batches import trim_memory
from ..runtime.outputs import plan_outputs
from ..runtime.pictures import contact_sheet, overlay_with_legend, save_picture
from .distributed import first_of_machine, gather


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
        folder: where; one PNG per image, named like it, and ``sheet.png``. None takes ``overlays``
            in the work dir.
        every_image: False writes the sheet alone.
        sheet: number of images on it.
        opacity: of the labels over the image, 0 to 1.
    """

    def __init__(
        self,
        folder: str | None = None,
        every_image: bool = True,
        sheet: int = 8,
        opacity: float = 0.6,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.every_image, self.sheet, self.opacity = every_image, sheet, opacity
        self._overlays: dict[str, Path] = {}  # by image; as are the sheet's tiles
        self._tiles: dict[str, Path] = {}

    def plan(self, images: Sequence[str], chosen: Sequence[str], folder: Path) -> list[Path]:
        """Names the files to come.

        Args:
            images: of the whole data set, each once: what a file is called depends on all of them.
            chosen: those that are evaluated; the first ones come on the sheet.
            folder: of the run, where the sheet's tiles are kept.

        Raises:
            InputError: an overlay would replace an image.
        """
        overlays = plan_outputs(images, self.folder) if self.every_image else ()
        self._overlays = dict(zip(images, overlays, strict=False))
        first = chosen[: self.sheet]
        tiles = folder / "sheet"
        self._tiles = {image: tiles / f"{place:08d}.png" for place, image in enumerate(first)}
        return [*overlays, *self._tiles.values(), self.folder / "sheet.png"]

    def outputs(self, image: str) -> list[Path]:
        """The files of an image."""
        return [files[image] for files in (self._overlays, self._tiles) if image in files]

    def before_test(self, runner: Runner) -> None:
        """In another loop than eval.py's, nobody has planned yet."""
        if self._tiles or self._overlays:
            return
        dataset = runner.test_dataloader.dataset
        infos = (dataset.get_data_info(index) for index in range(len(dataset)))
        images = list(dict.fromkeys(str(info["img_path"]) for info in infos))
        self.folder = self.folder or Path(runner.work_dir) / "overlays"
        self.plan(images, images, Path(runner.log_dir))

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        meta = runner.test_dataloader.dataset.metainfo
        for sample in outputs or ():
            targets = self.outputs(str(sample.img_path))
            if not targets:
                continue
            image = imread(sample.img_path, channel_order="rgb")
            truth = sample.gt_sem_seg.data[0].cpu().numpy() if "gt_sem_seg" in sample else None
            prediction = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            picture = overlay_with_legend(
                image, prediction, meta["classes"], meta["palette"], truth, self.opacity
            )
            for path in targets:
                save_picture(path, picture)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Puts the sheet together, from the tiles that the processes find on their disks."""
        here = {place: path for place, path in enumerate(self._tiles.values()) if path.is_file()}
        found = {place: imread(path) for place, path in here.items()} if first_of_machine() else {}
        tiles = {place: tile for part in gather(found) for place, tile in part.items()}
        if tiles and is_main_process():
            pictures = [tiles[place][..., ::-1] for place in sorted(tiles)]
            path = save_picture(self.folder / "sheet.png", contact_sheet(pictures))
            runner.logger.info(f"Overlays: {path}")
