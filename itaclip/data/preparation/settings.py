"""What the user asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InputError
from ...runtime.files import printable


def say_on_stdout(line: str) -> None:
    """Print a line; names from outside are shown escaped."""
    print(printable(line), flush=True)


@dataclass
class Settings:
    """What the user asked for, handed to every benchmark's preparation.

    Attributes:
        data_root: folder that holds every benchmark's tree.
        raw: archives or folders to look in before the data root.
        splits: ``("val",)``, ``("train",)`` or both.
        workers: processes for mask conversion.
        force: make every mask again.
        may_download: whether files may be fetched.
        mirror: URL prefix to fetch from instead of the official places.
        context_json: Pascal Context's ``trainval_merged.json``, if given by the user.
        context_json_sha1: its expected checksum, if it is not the published file.
        context_mat: folder or archive of ``.mat`` masks: chooses that route.
        context_val_list: list of image ids for the ``.mat`` route.
        need_images: if false, images that are not at hand are left out, and every raw mask is
            converted.
        say: prints a line for the user.
    """

    data_root: Path
    raw: tuple[Path, ...] = ()
    splits: tuple[str, ...] = ("val",)
    workers: int = 1
    force: bool = False
    may_download: bool = True
    mirror: str | None = None
    context_json: Path | None = None
    context_json_sha1: str | None = None
    context_mat: Path | None = None
    context_val_list: Path | None = None
    need_images: bool = True
    say: Callable[[str], None] = say_on_stdout
    remembered: list[Path] = field(default_factory=list)  # raw places of earlier runs

    @property
    def downloads(self) -> Path:
        return self.data_root / "downloads"

    def check(self) -> None:
        """Raise InputError if a given path does not exist, or data would go to the disk's root."""
        if not self.data_root.is_absolute() and Path.cwd().parent == Path.cwd():
            raise InputError(
                f"--data-root: {self.data_root} would lie in the root of the file system, the "
                "current folder; change to another folder, or give an absolute path"
            )
        options = [("--raw", path) for path in self.raw]
        options += [("--context-json", self.context_json), ("--context-mat", self.context_mat)]
        options += [("--context-val-list", self.context_val_list)]
        for option, path in options:
            if path is not None and not path.exists():
                raise InputError(
                    f"{path}: no such file or folder; check the path given with {option}"
                )
