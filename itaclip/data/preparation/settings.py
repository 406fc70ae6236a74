"""What the user asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InputError


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
    say: Callable[[str], None] = print
    remembered: list[Path] = field(default_factory=list)  # raw places of earlier runs

    @property
    def downloads(self) -> Path:
        return self.data_root / "downloads"

    def check(self) -> None:
        """Raise InputError if a given path does not exist."""
        options = [("--raw", path) for path in self.raw]
        options += [("--context-json", self.context_json), ("--context-mat", self.context_mat)]
        options += [("--context-val-list", self.context_val_list)]
        for option, path in options:
            if path is not None and not path.exists():
                raise InputError(
                    f"{path}: no such file or folder; check the path given with {option}"
                )
