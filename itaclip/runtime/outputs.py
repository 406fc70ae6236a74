"""Where results go: no two of them share a file, and none replaces an input."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError


def plan_outputs(
    inputs: Sequence[str | Path],
    folder: str | Path,
    suffix: str = ".png",
    *,
    root: str | Path | None = None,
    number: bool = True,
    kept: Iterable[str | Path] = (),
) -> list[Path]:
    """A file for the result of each input: in ``folder``, its name with another suffix.

    The same inputs in the same order always have the same files: plan for all of a data set before
    a part of it is worked on. Nothing is written.

    Args:
        inputs: files; one that is given twice has two results.
        folder: where the results go.
        suffix: of every result, with its dot.
        root: a folder above all inputs; the path below it is kept. None keeps the name alone.
        number: whether results of one name are told apart as ``a.png``, ``a-2.png`` and so on;
            False refuses them.
        kept: further files that no result may replace.

    Returns:
        A path for each input, in their order.

    Raises:
        InputError: a result would replace an input or a kept file; an input does not lie below
            ``root``; two results would share a file and ``number`` is False.
    """
    folder = Path(folder)
    wanted = [_below(path, root).with_suffix("") for path in inputs]
    targets = [folder / path.with_name(path.name + suffix) for path in wanted]
    keys = [_folded(target) for target in targets]
    taken, owners, last = set(keys), {}, {}
    for index, key in enumerate(keys):
        owner = owners.setdefault(key, index)
        if owner == index:
            continue
        if not number:
            raise InputError(
                f"{inputs[index]}: its result and that of {inputs[owner]} would both be "
                f"{targets[owner]}; rename one, or, if they lie in different folders, keep the "
                "folders in the results' paths."
            )
        while key in taken:
            last[keys[index]] = last.get(keys[index], 1) + 1
            name = f"{wanted[index].name}-{last[keys[index]]}{suffix}"
            targets[index] = targets[index].with_name(name)
            key = _folded(targets[index])
        taken.add(key)
    check_outputs(targets, inputs, kept)
    return targets


def check_outputs(
    targets: Iterable[str | Path],
    pictures: Iterable[str | Path] = (),
    kept: Iterable[str | Path] = (),
) -> None:
    """Refuses results that would replace a picture, another file to keep, or one another.

    Links are followed, and names that some file systems do not tell apart count as one.

    Raises:
        InputError: the first of them.
    """
    sources = {_place(path): "file" for path in kept}
    sources.update((_place(path), "picture") for path in pictures)
    seen = set()
    for target in targets:
        place = _place(target)
        if place in sources:
            raise InputError(
                f"{target}: the result would replace the {sources[place]} that is read; choose "
                "another place."
            )
        if place in seen:
            raise InputError(f"{target}: two results would go there; choose another place for one.")
        seen.add(place)


def _below(path: str | Path, root: str | Path | None) -> Path:
    if root is None:
        return Path(Path(path).name)
    for made_absolute in (os.path.abspath, os.path.realpath):  # links below the root stay
        try:
            return Path(made_absolute(path)).relative_to(made_absolute(root))
        except ValueError:
            continue
    raise InputError(
        f"{path}: the file does not lie below the folder {str(root)!r}; give the folder that holds "
        "all of them."
    )


def _place(path: str | Path) -> str:
    """Equal for paths of one file, whether it exists or not."""
    return _folded(os.path.realpath(Path(path).expanduser()))


def _folded(path: str | Path) -> str:
    """Equal for names that differ in case or in the coding of their accents alone."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", str(path)).casefold())
