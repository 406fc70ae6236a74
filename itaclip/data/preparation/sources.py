"""Find a benchmark's folders: in its tree, in raw downloads, or on the net.

Images are never copied: an extracted tree is linked, an archive is extracted once. A folder that
is being extracted has a sibling ``<name>.part`` until every file is in place, so that an
interrupted extraction is told from a finished one and goes on where it stopped.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ...errors import InputError
from ...runtime.download import Download, check_free_space, fetch
from ...runtime.files import MAX_TEXT, read_bytes
from .archives import DAMAGE, Member, check_size, is_archive, open_members
from .settings import Settings

SEARCH_DEPTH = 3  # how far below a raw place its folders are looked for


@dataclass(frozen=True)
class Part:
    """A folder of a benchmark's tree and where raw downloads keep it.

    Attributes:
        folder: path below the tree: ``images/val2017``.
        tails: endings of the folder's path in archives and in extracted downloads; the most
            telling first.
        pattern: regular expression that a file's name must match in full.
        download: the archive that holds it.
    """

    folder: str
    tails: tuple[str, ...]
    pattern: str
    download: Download

    @property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)


def files_in(folder: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the relative paths ("/" between parts) of matching files below a folder, sorted."""
    found: list[str] = []
    if not folder.is_dir():
        return found
    for parent, _, names in os.walk(folder, followlinks=True):
        prefix = os.path.relpath(parent, folder).replace(os.sep, "/")
        prefix = "" if prefix == "." else prefix + "/"
        found.extend(prefix + name for name in names if pattern.fullmatch(name))
    return sorted(found)


def find_folder(settings: Settings, tree: Path, part: Part) -> Path | None:
    """Return the folder that holds a part's files already: in the tree or in a raw place."""
    inside = tree / part.folder
    if not _unfinished(inside).exists() and _holds_any(inside, part.regex):
        return inside
    return _find_outside(settings, inside, part)


def _find_outside(settings: Settings, inside: Path, part: Part) -> Path | None:
    for place in _places(settings):
        if not place.is_dir():
            continue
        for tail in part.tails:
            for folder in _folders_ending(place, tail):
                if folder != inside and _holds_any(folder, part.regex):
                    return folder
    return None


def find_archive(settings: Settings, part: Part) -> Path | None:
    """Return an archive that holds a part: a known name in a place, or one the user named."""
    for place in _places(settings):
        if is_archive(place):
            if place.name == part.download.file_name:
                return place
            with open_members(place, part.tails, part.regex) as members:
                if members:
                    return place
    return find_file(settings, part.download.file_name)


def find_file(settings: Settings, name: str) -> Path | None:
    """Return a single file by its name, at a place or one folder below."""
    for place in _places(settings):
        if place.is_file() and place.name == name:
            return place
        for folder in _walk(place, 1) if place.is_dir() else ():
            if (folder / name).is_file():
                return folder / name
    return None


def obtain_archive(settings: Settings, part: Part) -> Path:
    """Return a part's archive, fetching it if need be.

    Raises:
        InputError: it is not there and may not or cannot be fetched.
    """
    archive = find_archive(settings, part)
    if archive is not None:
        return archive
    download = part.download
    if download.url is not None and settings.may_download:
        return fetch_raw(settings, download)
    where = f"{settings.data_root} (or pass its place with --raw)"
    if download.url is None:
        raise InputError(
            f"expected {download.file_name} or its extracted folder {part.tails[0]}; "
            f"it cannot be fetched without registering: {download.how_to_get}, and put it into "
            f"{where}"
        )
    raise InputError(
        f"expected {download.file_name} or its extracted folder {part.tails[0]} in "
        f"{where}; get it from {download.url}, or leave out --no-download"
    )


def fetch_raw(settings: Settings, download: Download) -> Path:
    """Download a raw file into the data root's ``downloads``."""
    otherwise = (
        f"fetch {download.file_name} from elsewhere and pass it with --raw, or name a --mirror"
    )
    return fetch(
        download,
        settings.downloads,
        mirror=settings.mirror,
        otherwise=otherwise,
        elsewhere="choose another --data-root",
        say=settings.say,
    )


def provide_folder(
    settings: Settings,
    tree: Path,
    part: Part,
    wanted: Collection[str] | None = None,
) -> Path:
    """Make sure that ``tree / part.folder`` holds the part's files, and return it.

    Args:
        settings: what the user asked for.
        tree: the benchmark's tree.
        part: the folder to provide.
        wanted: file names needed, or None for every file that matches the part's pattern.

    Raises:
        InputError: the files cannot be found, or some wanted ones are missing everywhere.
    """
    inside = tree / part.folder
    found = find_folder(settings, tree, part)
    if found == inside:
        if not _missing(inside, wanted):
            return inside
        found = _find_outside(settings, inside, part)
    if found is not None:
        _link(inside, found, part, wanted)
        if not _missing(inside, wanted):
            return inside
    archive = obtain_archive(settings, part)
    extract(archive, part, inside, wanted)
    missing = _missing(inside, wanted)
    if missing:
        raise InputError(
            f"{inside}: {len(missing)} listed files are missing, such as {missing[0]}, and "
            f"{archive} does not hold them; download {part.download.file_name} again"
        )
    return inside


def read_small_file(settings: Settings, tree: Path, part: Part, name: str) -> tuple[bytes, Path]:
    """Return a small file's content, and where it was found, without placing it in the tree."""
    folder = find_folder(settings, tree, part)
    if folder is not None and (folder / name).is_file():
        return read_bytes(folder / name), folder / name
    archive = obtain_archive(settings, part)
    with open_members(archive, part.tails, part.regex) as members:
        for member in members:
            if str(member.relative) == name and member.size <= MAX_TEXT:
                return member.open().read(), archive
    raise InputError(
        f"{archive}: expected it to hold {part.tails[0]}/{name}; it is not the official "
        f"{part.download.file_name}, download that"
    )


def _places(settings: Settings) -> list[Path]:
    return [*settings.raw, settings.downloads, settings.data_root, *settings.remembered]


def _unfinished(folder: Path) -> Path:
    return folder.with_name(folder.name + ".part")


def _holds_any(folder: Path, pattern: re.Pattern[str]) -> bool:
    if not folder.is_dir():
        return False
    walk = os.walk(folder, followlinks=True)
    return any(pattern.fullmatch(name) for _, _, names in walk for name in names)


def _missing(folder: Path, wanted: Collection[str] | None) -> list[str]:
    if wanted is None:
        return []
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    return sorted(set(wanted) - present)


def _walk(place: Path, depth: int) -> Iterator[Path]:
    """Give a folder and its subfolders down to a depth, shallow ones first."""
    level = [place]
    for remaining in range(depth, -1, -1):
        yield from level
        if remaining:
            level = [
                Path(entry.path)
                for folder in level
                for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
                if entry.is_dir() and not entry.name.endswith(".part")
            ]


def _folders_ending(place: Path, tail: str) -> Iterator[Path]:
    """Give the folders in, above or equal to the end of ``place`` whose path ends with ``tail``."""
    parts, last = tuple(tail.split("/")), place.resolve().parts
    for shared in range(len(parts), 0, -1):
        if last[-shared:] == parts[:shared]:
            yield place.joinpath(*parts[shared:])
    for base in _walk(place, SEARCH_DEPTH):
        if (base / tail).is_dir():
            yield base / tail


def _link(inside: Path, found: Path, part: Part, wanted: Collection[str] | None) -> None:
    """Link an extracted folder into the tree; single files if the tree's folder exists."""
    try:
        inside.parent.mkdir(parents=True, exist_ok=True)
        if inside.is_symlink() and not inside.exists():
            inside.unlink()  # points to a place that is gone
        shutil.rmtree(_unfinished(inside), ignore_errors=True)  # superseded by the link
        if not inside.exists():
            inside.symlink_to(found.resolve(), target_is_directory=True)
            return
        names = files_in(found, part.regex) if wanted is None else _missing(inside, wanted)
        for name in names:
            link = inside / name
            if (found / name).is_file() and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((found / name).resolve())
    except OSError as error:
        raise InputError(
            f"{inside}: cannot be made a link to {found} ({error.strerror or error}); move the "
            "folder there yourself, or pass its archive with --raw"
        ) from None


def extract(archive: Path, part: Part, inside: Path, wanted: Collection[str] | None) -> None:
    """Extract a part's members into ``inside`` by way of its ``.part`` sibling."""
    aside = _unfinished(inside)
    with open_members(archive, part.tails, part.regex) as members:
        chosen = [m for m in members if wanted is None or str(m.relative) in wanted]
        if not chosen:
            raise InputError(
                f"{archive}: expected files in {part.tails[0]}, but there are none; it is not the "
                f"official {part.download.file_name}, download that"
            )
        total = sum(member.size for member in chosen if not _extracted(member, inside, aside))
        check_size(archive, total)
        aside.mkdir(parents=True, exist_ok=True)
        check_free_space(aside, total, "free some space or choose another --data-root")
        for member in tqdm(chosen, desc=f"extracting {part.folder}", unit="file", disable=None):
            _extract_member(member, inside, aside)
    for name in files_in(aside, re.compile(".*")):
        target = inside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(aside / name, target)
    shutil.rmtree(aside)


def _extracted(member: Member, *folders: Path) -> bool:
    places = [folder / member.relative for folder in folders]
    return any(place.is_file() and place.stat().st_size == member.size for place in places)


def _extract_member(member: Member, inside: Path, aside: Path) -> None:
    if _extracted(member, inside, aside):
        return
    target = aside / member.relative
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with member.open() as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        if target.stat().st_size != member.size:
            raise EOFError(f"member {member.path} is cut off")
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, DAMAGE):
            raise InputError(
                f"{target}: cannot be written ({error.strerror or error}); free some space or "
                "choose another --data-root"
            ) from None
        raise
