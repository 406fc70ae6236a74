"""Label files of one's own data: masks with any raw values in, predicted label maps out.

Both sides are named in a config, so that a folder of pictures needs no Python; see
docs/your_own_data.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import METRICS, TRANSFORMS
from PIL import Image

from ..checks import is_integer
from ..errors import BadSampleError, InputError
from ..runtime.files import write_whole
from ..runtime.outputs import plan_outputs
from ..runtime.palette import palette_of
from ..runtime.pictures import save_picture
from .loading import mask_limit, read_labels

_RAW_VALUES = 1 << 16  # masks of 8 and 16 bits
_NAMES = "classes.txt"
_UNLISTED = -1
_MAX_NAMED = 8  # raw values named in one message


@TRANSFORMS.register_module()
class LoadMappedAnnotations(LoadAnnotations):
    """Loads a mask of any raw label values and turns them into class indices.

    Masks may be grey or have a palette (whose indices count, not its colours), with 8 or 16 bits.

    Args:
        mapping: raw value → class index, such as ``{7: 0, 8: 1}``; several raw values may belong to
            one class. Map to the data set's ignored label (255) what shall not be scored.
        others: class index of all raw values that are not listed, such as 255 to ignore them;
            None: such a value is an error.
        backend_args: as in mmcv.

    Raises:
        InputError: a key or value of the mapping that is no integer from 0 to 65535.
    """

    def __init__(
        self,
        mapping: Mapping[int, int],
        others: int | None = None,
        backend_args: dict | None = None,
    ) -> None:
        super().__init__(backend_args=backend_args)
        self.mapping = _checked_mapping(mapping)
        self.others = None if others is None else _label(others, "others")
        table = np.full(_RAW_VALUES, _UNLISTED if others is None else self.others, dtype=np.int32)
        for raw, label in self.mapping.items():
            table[raw] = label
        self.label_lut = table
        """(65536,) class index of each raw value, -1 where there is none."""

    def _load_seg_map(self, results: dict) -> None:
        """Adds ``gt_seg_map`` (H, W) uint8, or uint16 where a label is above 255."""
        path = results["seg_map_path"]
        if results.get("reduce_zero_label") or results.get("label_map"):
            raise InputError(
                "LoadMappedAnnotations: the data set has reduce_zero_label=True or a subset of its "
                "classes, which would change the labels a second time; say it in `mapping` alone."
            )
        raw = read_labels(path, self.backend_args, mask_limit(results))
        known = (raw >= 0) & (raw < _RAW_VALUES)
        labels = self.label_lut[np.where(known, raw, 0)]
        if not known.all():
            labels[~known] = _UNLISTED if self.others is None else self.others
        if (labels == _UNLISTED).any():
            values = np.unique(raw[labels == _UNLISTED])
            more = f" and {len(values) - _MAX_NAMED} more" if len(values) > _MAX_NAMED else ""
            raise BadSampleError(
                f"{path}: the mask holds the raw value "
                f"{', '.join(str(value) for value in values[:_MAX_NAMED])}{more}, which `mapping` "
                "does not list; add it there, or set `others` to the class of all unlisted values.",
                str(path),
            )
        results["gt_seg_map"] = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
        results["seg_fields"].append("gt_seg_map")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(mapping={self.mapping}, others={self.others})"


def _checked_mapping(mapping: Mapping[int, int]) -> dict[int, int]:
    if not isinstance(mapping, Mapping) or not mapping:
        raise InputError(
            "LoadMappedAnnotations: expected `mapping` to be a dict of raw value to class index, "
            f"such as {{7: 0, 8: 1}}, but got {mapping!r}."
        )
    return {
        _label(raw, "a key of mapping"): _label(label, f"mapping[{raw!r}]")
        for raw, label in mapping.items()
    }


def _label(value: object, key: str) -> int:
    if isinstance(value, str) and value.isdecimal():  # keys of a config in JSON or YAML
        value = int(value)
    if not is_integer(value, 0, _RAW_VALUES - 1):
        raise InputError(
            f"LoadMappedAnnotations: expected {key} to be an integer from 0 to {_RAW_VALUES - 1}, "
            f"but got {value!r}."
        )
    return int(value)


@METRICS.register_module()
class SaveLabels(BaseMetric):
    """Writes predicted label maps as PNG files; needs no masks and computes no score.

    A pixel's value is its class index, in 8 bits, or in 16 where there are more than 255 classes;
    ``classes.txt`` beside the files lists the names. An image's file keeps its name.

    Args:
        folder: where; eval.py takes ``<work dir>/labels`` if it is not given.
        root: folder of the images; the path below it is kept. None keeps the name alone.
        collect_device: as in mmengine.
    """

    default_prefix = "labels"

    def __init__(
        self, folder: str | Path, root: str | Path | None = None, collect_device: str = "cpu"
    ) -> None:
        super().__init__(collect_device=collect_device)
        self.folder = Path(folder)
        self.root = None if root is None else Path(root)
        self._targets: dict[str, Path] = {}  # by image
        self._namesakes: dict[str, list[str]] = {}

    def plan(self, images: Sequence[str], chosen: Sequence[str], folder: Path) -> list[Path]:
        """Names the files to come; see :class:`itaclip.evaluation.loop.EvaluationLoop`.

        Raises:
            InputError: two images would have one label map, a label map would replace an image, or
                an image does not lie below ``root``.
        """
        targets = self._planned(images)
        self._targets = dict(zip(images, targets, strict=True))
        return [*targets, self.folder / _NAMES]

    def outputs(self, image: str) -> list[Path]:
        """The label map of an image."""
        return [self._targets[image]]

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Writes the label map of each sample."""
        dtype = np.uint8 if len(self.dataset_meta["classes"]) <= 255 else np.uint16
        for sample in data_samples:
            image = str(sample["img_path"])
            if image not in self._targets:  # in another loop than eval.py's
                namesakes = self._namesakes.setdefault(Path(image).stem.casefold(), [])
                namesakes.append(image)
                self._targets[image] = self._planned(namesakes)[-1]
            labels = sample["pred_sem_seg"]["data"].squeeze(0).cpu().numpy().astype(dtype)
            save_picture(self._targets[image], self._with_palette(labels))
            self.results.append((str(self._targets[image]), image))

    def _planned(self, images: Iterable[str]) -> list[Path]:
        try:
            return plan_outputs(list(images), self.folder, root=self.root, number=False)
        except InputError as error:
            raise InputError(
                f"SaveLabels: {error} (To keep the images' folders, set root to the folder above "
                "them.)"
            ) from error

    def _with_palette(self, labels: np.ndarray) -> Image.Image:
        """A label map whose 8-bit file shows the classes' colours; 16 bits have none."""
        picture = Image.fromarray(labels)
        if labels.dtype == np.uint8:
            names = self.dataset_meta["classes"]
            palette = palette_of(names, names[0] == "background")
            picture.putpalette(np.asarray(palette, dtype=np.uint8).tobytes())
        return picture

    def compute_metrics(self, results: list[tuple[str, str]]) -> dict:
        """Writes the list of names; there is no score."""
        self._planned(dict.fromkeys(image for _, image in results))  # of all processes
        lines = [f"{i} {name}\n" for i, name in enumerate(self.dataset_meta["classes"])]
        write_whole(self.folder / _NAMES, "".join(lines))
        print_log(f"Labels: {self.folder} ({len(results)} files)", logger="current")
        return {}
