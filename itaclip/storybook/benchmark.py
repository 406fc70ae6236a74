"""The Storybook benchmark on disk: drawn at first use, in mmsegmentation's layout, verified.

    root/images/<split>/0000.png …        RGB pictures of several sizes
    root/annotations/<split>/0000.png …   their labels, mode L
    root/storybook_<split>.json           manifest, written last: files, sizes, checksum

The checksum runs over pixels, not over files, so that it holds for every PNG encoder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import InputError
from .scenes import CLASSES, PALETTE, Scene, draw_scene

__all__ = [
    "CLASSES",
    "PALETTE",
    "SPLITS",
    "ensure_split",
    "evaluation_scene",
    "generate_split",
    "verify_split",
]

SPLITS: dict[str, tuple[int, int]] = {
    "train": (21_001, 60),
    "val": (31_001, 100),
    "test": (41_003, 200),
}
"""Split → its seed and number of pictures.

`train` chooses constants of methods, `val` chose the model's training; `test` evaluates.
"""

CHECKSUMS: dict[str, str] = {
    "train": "3093c8032fcaead2ec4c1f4aaddfabc1bb3d7c8f38cf7e9ef7c36f8559ffc3da",
    "val": "8fc8b13c976fa3686b3918ecdecdbff82e34ced40b7322c708ac749064b74084",
    "test": "8b0ac257ab8f3dd8b37b5b6ca12713b270ff153244b4e44dc100f3428846fe50",
}
"""Split → sha256 over the sizes and pixels of all its pictures and masks."""

SIZES = (
    (168, 224),
    (224, 168),
    (168, 224),
    (200, 200),
    (150, 230),
    (168, 224),
    (224, 168),
    (173, 219),
    (131, 257),
    (168, 224),
)
"""(H, W) of the pictures, in turn: landscape, portrait, square and odd."""


def evaluation_scene(split: str, index: int) -> Scene:
    """Scene number ``index`` of a split: three to six things on two or three kinds of stuff."""
    seed, count = _split(split)
    if not 0 <= index < count:
        raise InputError(
            f"Expected a Storybook picture number from 0 to {count - 1} in split "
            f"'{split}', but got {index}."
        )
    size = SIZES[index % len(SIZES)]
    return draw_scene((seed, index), size, things=(3, 6), unit=(15.0, 38.0), layers=(2, 3))


def ensure_split(root: str | Path, split: str, progress: bool = True) -> Path:
    """Make sure that a split lies whole under ``root``; draw it if not.

    Every start checks the manifest and that each file is there with its recorded size. A damaged
    or incomplete split is re-made, which one printed line says.

    Args:
        root: folder of the benchmark; made if needed.
        split: 'train', 'val' or 'test'.
        progress: show a progress bar while drawing.

    Returns:
        The root folder.

    Raises:
        InputError: unknown split, or a place that cannot be written.
    """
    _split(split)
    root = Path(root)
    fault = _fault(root, split)
    if fault is None:
        return root
    if _traces(root, split):
        print(f"Storybook: split '{split}' in {root} is damaged ({fault}); it is made again.")
    return generate_split(root, split, progress)


def generate_split(root: str | Path, split: str, progress: bool = True) -> Path:
    """Draw a split into a temporary folder beside its place, check it, then move it there.

    An interrupted run leaves what was there before; of two runs at once, one result stays.

    Raises:
        InputError: unknown split, a place that cannot be written, or pixels that differ from the
            frozen checksum.
    """
    _, count = _split(split)
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".storybook_{split}_", dir=root))
    except OSError as error:
        raise _unwritable(root, error) from None
    try:
        print(f"Storybook: drawing the {count} pictures of split '{split}' into {root}")
        indices = tqdm(range(count), desc=f"storybook {split}", disable=not progress)
        scenes = (evaluation_scene(split, index) for index in indices)
        manifest = _write(aside, split, scenes)
        if manifest["sha256"] != CHECKSUMS[split]:
            raise InputError(
                f"The Storybook split '{split}' drawn with NumPy {np.__version__} has checksum "
                f"{manifest['sha256']}, but expected {CHECKSUMS[split]}; please check the "
                f"installation, as figures on these pictures would not be comparable."
            )
        _install(aside, root, split)
    except OSError as error:
        raise _unwritable(root, error) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return root


def verify_split(root: str | Path, split: str) -> bool:
    """Read all pixels of a split back and compare them with the frozen checksum."""
    _split(split)
    root = Path(root)
    if _fault(root, split) is not None:
        return False
    try:
        return pixel_checksum(_read(root, split)) == CHECKSUMS[split]
    except (OSError, SyntaxError):  # what Pillow raises on damaged files
        return False


def pixel_checksum(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> str:
    """sha256 over (image (H, W, 3), mask (H, W)) pairs of uint8, sizes included."""
    digest = hashlib.sha256()
    for image, mask in pairs:
        digest.update(f"{mask.shape[0]}x{mask.shape[1]}".encode())
        digest.update(np.ascontiguousarray(image).tobytes())
        digest.update(np.ascontiguousarray(mask).tobytes())
    return digest.hexdigest()


def _split(split: str) -> tuple[int, int]:
    if split not in SPLITS:
        raise InputError(f"Expected a Storybook split out of {sorted(SPLITS)}, but got {split!r}.")
    return SPLITS[split]


def _unwritable(root: Path, error: OSError) -> InputError:
    reason = error.strerror or str(error)
    return InputError(
        f"The Storybook benchmark cannot be written to {root} ({reason}); "
        f"choose a folder that can be written."
    )


def _folders(root: Path, split: str) -> tuple[Path, Path, Path]:
    """Images, annotations and manifest of a split."""
    return (root / "images" / split, root / "annotations" / split, root / f"storybook_{split}.json")


def _traces(root: Path, split: str) -> bool:
    return any(place.exists() for place in _folders(root, split))


def _sizes(folder: Path) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries}


def _fault(root: Path, split: str) -> str | None:
    """What keeps a split from being whole, None if nothing does; looks at no pixel."""
    images, annotations, manifest_path = _folders(root, split)
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        if manifest["sha256"] != CHECKSUMS[split]:
            return "its manifest has another checksum"
        for folder, key in ((images, "images"), (annotations, "annotations")):
            found, expected = _sizes(folder), manifest[key]
            if len(expected) != SPLITS[split][1] or found != expected:
                wrong = sum(found.get(name) != size for name, size in expected.items())
                return f"{wrong} of {len(expected)} files in {folder} missing or of another size"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{manifest_path} cannot be read"
    return None


def _write(aside: Path, split: str, scenes: Iterable[Scene]) -> dict:
    """Write pictures, masks and manifest below ``aside``; gives the manifest."""
    images, annotations, manifest_path = _folders(aside, split)
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index, scene in enumerate(scenes):
            Image.fromarray(scene.image).save(images / f"{index:04d}.png")
            Image.fromarray(scene.mask).save(annotations / f"{index:04d}.png")
            yield scene.image, scene.mask

    checksum = pixel_checksum(pairs())
    manifest = {"sha256": checksum, "images": _sizes(images), "annotations": _sizes(annotations)}
    manifest_path.write_text(json.dumps(manifest), encoding="utf-8")
    return manifest


def _install(aside: Path, root: Path, split: str) -> None:
    """Move a finished split to its place, the manifest last."""
    for attempt in range(20):
        if _fault(root, split) is None:
            return  # another process was faster
        try:
            moves = zip(_folders(aside, split), _folders(root, split), strict=True)
            for number, (new, place) in enumerate(moves):
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.is_dir() and new.exists():
                    os.replace(place, aside / f"old-{attempt}-{number}")
                if new.exists():
                    os.replace(new, place)
            return
        except OSError:
            if attempt == 19:
                raise


def _read(root: Path, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    images, annotations, _ = _folders(root, split)
    for index in range(SPLITS[split][1]):
        name = f"{index:04d}.png"
        yield np.asarray(Image.open(images / name)), np.asarray(Image.open(annotations / name))
