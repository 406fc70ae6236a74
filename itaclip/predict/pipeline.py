"""A config's test pipeline for single pictures: what an evaluation makes of them, step by step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmseg.registry import TRANSFORMS
from torch import Tensor

from ..data.guard import GuardedPipeline
from ..errors import InputError
from ..runtime.files import one_line
from .images import read_image, refuse_address

_HINT = "give short_side, which takes the pipeline's place."
# Steps after which the labels of the inputs are not those of the picture.
_MOVING = ("Pad", "CenterCrop", "TestTimeAug")


class ConfigPipeline:
    """The steps of an evaluation, without those that load masks.

    Args:
        steps: as in the config.
        path: of the config, for messages.
        patch: the smallest side in pixels that the model can take.

    Raises:
        InputError: a step that cannot be built, or none that loads pictures at the beginning.
    """

    def __init__(self, steps: Sequence[Mapping], path: Path, patch: int = 1) -> None:
        self.path = path
        kinds = [getattr(step["type"], "__name__", step["type"]) for step in steps]
        moving = [kind for kind in kinds if kind in _MOVING or kind.startswith("Random")]
        if moving:
            raise InputError(
                f"{path}: pipeline: pictures of your own take no step that pads, crops or turns "
                f"them, but it has {moving[0]}; {_HINT}"
            )
        try:
            built = [TRANSFORMS.build(dict(step)) for step in steps]
        except Exception as error:  # a config names programs: whatever they raise is said of it
            raise InputError(f"{path}: pipeline: {one_line(error)}; {_HINT}") from error
        built = [step for step in built if not isinstance(step, LoadAnnotations)]
        if not built or not isinstance(built[0], LoadImageFromFile):
            raise InputError(
                f"{path}: pipeline: expected LoadImageFromFile as its first step; {_HINT}"
            )
        first = _LoadPicture(GuardedPipeline(built[:1]).transforms[0])
        self._run = GuardedPipeline([first, *built[1:]], patch=patch)

    def __call__(
        self, image: object, source: str, bits: int | None = None
    ) -> tuple[np.ndarray, Tensor]:
        """The picture as it is loaded, and as it goes into the network.

        Args:
            image: as for :func:`read_image`; files are loaded as the config says.
            source: what messages call it.
            bits: as for :func:`read_image`.

        Returns:
            (H, W, 3) uint8 RGB, and (3, h, w) BGR.

        Raises:
            InputError: the picture cannot be used.
        """
        sample = dict(img_path=source, seg_fields=[], label_map=None, reduce_zero_label=False)
        if isinstance(image, str | Path) and bits is None:
            refuse_address(image)
            sample["img_path"] = str(Path(image).expanduser())
        else:
            sample["img"] = np.ascontiguousarray(read_image(image, source, bits)[..., ::-1])
        loaded = sample["loaded"] = []
        done = self._run(sample)
        if done["data_samples"].metainfo.get("flip"):
            raise InputError(f"{self.path}: pipeline: it flips pictures; {_HINT}")
        return loaded[0], done["inputs"]


class _LoadPicture:
    """A config's loading of files, but for pictures that are loaded already; keeps what it loads.

    Args:
        load: the config's.
    """

    def __init__(self, load: LoadImageFromFile) -> None:
        self.load = load

    def __call__(self, sample: dict) -> dict:
        if "img" not in sample:
            sample = self.load(sample)
        else:
            sample["img_shape"] = sample["ori_shape"] = sample["img"].shape[:2]
            if self.load.to_float32:
                sample["img"] = sample["img"].astype(np.float32)
        if sample is not None:
            sample["loaded"].append(np.array(sample["img"][..., ::-1], np.uint8, order="C"))
        return sample


def pipeline_steps(config: Config, path: Path) -> list[Mapping]:
    """The steps that an evaluation of the config runs; empty where it names none.

    Raises:
        InputError: its data sets have several pipelines.
    """
    loader = config.get("test_dataloader") or {}
    found = _pipelines(loader.get("dataset")) or [config.get("test_pipeline")]
    if any(steps != found[0] for steps in found):
        raise InputError(f"{path}: pipeline: its data sets have different ones; {_HINT}")
    return list(found[0] or ())


def _pipelines(dataset: Any) -> list:
    """Those of a data set, of the parts of a concatenation, and of what a wrapper holds."""
    if not isinstance(dataset, Mapping):
        return []
    if "datasets" in dataset:
        return [steps for part in dataset["datasets"] for steps in _pipelines(part)]
    return [dataset["pipeline"]] if dataset.get("pipeline") else _pipelines(dataset.get("dataset"))
