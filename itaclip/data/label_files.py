"""Label files of one's own data: masks with any raw values in, predicted label maps out.

Both sides are named in a config, so that a folder of pictures needs no Python; see
docs/your_own_data.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import METRICS, TRANSFORMS
from PIL import Image

from ..checks import is_integer
from ..errors import BadSampleError, InputError
from ..runtime.files import atomic_write
from ..runtime.palette import palette_of
from ..runtime.pictures import save_picture
from .loading import mask_limit, read_labels

_RAW_VALUES = 1 << 16  # masks of 8 and 16 bits
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
        self._image_of: dict[Path, str] = {}

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Writes the label map of each sample."""
        dtype = np.uint8 if len(self.dataset_meta["classes"]) <= 255 else np.uint16
        for sample in data_samples:
            image = str(sample["img_path"])
            path = self._path_of(image)
            self._claim(path, image)
            labels = sample["pred_sem_seg"]["data"].squeeze(0).cpu().numpy().astype(dtype)
            save_picture(path, self._with_palette(labels))
            self.results.append((str(path), image))

    def _with_palette(self, labels: np.ndarray) -> Image.Image:
        """A label map whose 8-bit file shows the classes' colours; 16 bits have none."""
        picture = Image.fromarray(labels)
        if labels.dtype == np.uint8:
            names = self.dataset_meta["classes"]
            palette = palette_of(names, names[0] == "background")
            picture.putpalette(np.asarray(palette, dtype=np.uint8).tobytes())
        return picture

    def _path_of(self, image: str) -> Path:
        below = Path(Path(image).name)
        if self.root is not None:
            try:
                below = Path(image).resolve().relative_to(self.root.resolve())
            except ValueError:
                raise InputError(
                    f"SaveLabels: {image} does not lie below root={str(self.root)!r}; give the "
                    "folder that holds all images."
                ) from None
        path = self.folder / below.with_suffix(".png")
        if path.resolve() == Path(image).resolve():
            raise InputError(
                f"SaveLabels: {path} is the image itself; give another folder for the labels."
            )
        return path

    def _claim(self, path: Path, image: str) -> None:
        other = self._image_of.setdefault(path, image)
        if other != image:
            raise InputError(
                f"SaveLabels: the labels of {other} and {image} would both be {path}; rename one, "
                "or, if the images lie in different folders, set root to the folder above them."
            )

    def compute_metrics(self, results: list[tuple[str, str]]) -> dict:
        """Writes the list of names; there is no score."""
        self._image_of.clear()
        for path, image in results:  # of all processes
            self._claim(Path(path), image)
        self._image_of.clear()
        lines = [f"{i} {name}\n" for i, name in enumerate(self.dataset_meta["classes"])]
        with atomic_write(self.folder / "classes.txt") as aside:
            aside.write_text("".join(lines), encoding="utf-8")
        print_log(f"Labels: {self.folder} ({len(results)} files)", logger="current")
        return {}
