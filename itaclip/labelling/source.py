"""What is to be labelled: a folder, pattern, list, Parquet or tar files, cut into shards.

A shard is what is written, and done or not done, as a whole. The cut depends on the source alone,
so that every start of a run, on any number of machines, finds the same shards.
"""

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from glob import glob, has_magic
from itertools import islice
from pathlib import Path

from ..errors import InputError
from ..predict.images import SUFFIXES
from ..runtime.files import one_line
from .places import filesystem, is_remote, need_pyarrow, opened

PARQUET = (".parquet", ".pq")
TAR = (".tar", ".tar.gz", ".tgz")
LISTS = (".txt", ".lst")
_BYTES_COLUMNS = ("image", "bytes", "jpg", "png", "content", "data")
_URI_COLUMNS = ("uri", "url", "path", "file", "file_name", "filename", "image")


@dataclass(frozen=True)
class Shard:
    """A part of a source; small enough for millions of pictures to be planned in memory.

    Attributes:
        index: from 0.
        kind: ``'files'``, ``'parquet'`` or ``'tar'``.
        content: of ``'files'``: packed (key, place) pairs; else the file's place.
        start, count: rows of a Parquet file; ``count`` is None where only reading will tell.
        columns: of Parquet: the picture's, whether it holds bytes, and the key's or ``''``.
    """

    index: int
    kind: str
    content: bytes
    start: int = 0
    count: int | None = None
    columns: tuple[str, bool, str] | None = None

    @property
    def place(self) -> str:
        return self.content.decode()

    def files(self) -> list[tuple[str, str]]:
        """(key, place) of the pictures of a shard of files."""
        lines = zlib.decompress(self.content).decode("utf-8", "surrogateescape").split("\0")
        return list(zip(lines[::2], lines[1::2], strict=True))


@dataclass(frozen=True)
class Source:
    """The shards of a source.

    Attributes:
        given: as the user wrote it.
        shards: in order.
        pictures: their number, None where only reading will tell.
    """

    given: str
    shards: tuple[Shard, ...]

    @property
    def pictures(self) -> int | None:
        counts = [shard.count for shard in self.shards]
        return None if None in counts else sum(counts)

    @cached_property
    def sha256(self) -> str:
        """Of all names and counts: it tells another list of pictures, but not another disk."""
        sha = hashlib.sha256()
        for shard in self.shards:
            files = shard.kind == "files"
            names = [key for key, _ in shard.files()] if files else [base_name(shard.place)]
            text = f"{shard.kind} {names} {shard.start} {shard.count} {shard.columns}\n"
            sha.update(text.encode("utf-8", "backslashreplace"))
        return sha.hexdigest()


def find_source(
    given: str,
    shard_size: int,
    image_column: str | None = None,
    key_column: str | None = None,
) -> Source:
    """Looks a source up and cuts it.

    Args:
        given: a folder (searched with all its folders), a pattern, a picture, a ``.txt`` with a
            path or URL a line, Parquet files or tar files; paths or URLs.
        shard_size: pictures a shard; a tar file is one of its own.
        image_column: of Parquet files: the column of bytes, or of paths and URLs; None looks for
            one.
        key_column: of Parquet files: what names a picture; None takes ``FILE#ROW``.

    Raises:
        InputError: there is nothing, or kinds are mixed.
    """
    lower = given.lower()
    if lower.endswith(LISTS) and not has_magic(given):
        return Source(given, tuple(_file_shards(_listed(given), shard_size)))
    found = _remote(given) if is_remote(given) else _local(given)
    pictures: list[tuple[str, str]] = []
    containers: dict[str, list[tuple[str, str]]] = {"parquet": [], "tar": []}
    single = not has_magic(given)
    for key, place in found:
        kind = _kind(place)
        if kind == "files" or (kind is None and single and len(found) == 1):
            pictures.append((key, place))
        elif kind is not None:
            containers[kind].append((key, place))
    kinds = [kind for kind, held in (("files", pictures), *containers.items()) if held]
    if not kinds:
        raise InputError(
            f"{given}: nothing to label: expected pictures ({', '.join(SUFFIXES)}), Parquet or tar "
            "files there, or a .txt that lists pictures; correct the path or pattern."
        )
    if len(kinds) > 1:
        raise InputError(
            f"{given}: expected pictures, Parquet files or tar files, but found "
            f"{' and '.join(kinds)} side by side; give a pattern such as '{given}/**/*.jpg'."
        )
    if kinds == ["files"]:
        shards = _file_shards(pictures, shard_size)
    elif kinds == ["tar"]:
        shards = (Shard(i, "tar", place.encode()) for i, (_, place) in enumerate(containers["tar"]))
    else:
        places = [place for _, place in containers["parquet"]]
        shards = _parquet_shards(places, shard_size, image_column, key_column)
    return Source(given, tuple(shards))


def base_name(place: str) -> str:
    """The last part of a path or URL."""
    return place.partition("?")[0].replace(os.sep, "/").rpartition("/")[2]


def _kind(place: str) -> str | None:
    lower = place.lower()
    for kind, suffixes in (("files", SUFFIXES), ("parquet", PARQUET), ("tar", TAR)):
        if lower.endswith(suffixes):
            return kind
    return None


def _local(given: str) -> list[tuple[str, str]]:
    """(key, place) of local files; keys are relative to what was given."""
    text = str(Path(given).expanduser())
    if os.path.isdir(text):
        return [(os.path.relpath(p, text).replace(os.sep, "/"), p) for p in _walk(text)]
    if os.path.exists(text):
        return [(os.path.basename(text), text)]
    if has_magic(text):
        found = sorted(p for p in glob(text, recursive=True) if os.path.isfile(p))
        return [(p.replace(os.sep, "/"), p) for p in found]
    raise InputError(f"{given}: there is no such file or folder; correct the path.")


def _walk(folder: str) -> Iterator[str]:
    """Files of a folder and its folders in a fixed order; hidden ones are left out."""
    with os.scandir(folder) as entries:
        found = sorted(
            (entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not entry.name.startswith(".")
        )
    for name, is_folder in found:
        path = os.path.join(folder, name)
        if is_folder:
            yield from _walk(path)
        elif os.path.isfile(path):
            yield path


def _remote(given: str) -> list[tuple[str, str]]:
    """As :func:`_local`, of a URL: a file, a prefix, or a pattern."""
    from pyarrow.fs import FileSelector, FileType

    base, _, query = given.partition("?")  # pyarrow's URLs may carry options
    fixed = base
    while has_magic(fixed):
        fixed = fixed.rpartition("/")[0]
    options = f"?{query}" if query else ""
    files, root = filesystem(fixed + options)
    try:
        info = files.get_file_info(root)
        if info.type == FileType.File:
            return [(info.base_name, given)]
        entries = files.get_file_info(FileSelector(root, recursive=True))
    except FileNotFoundError:
        raise InputError(f"{given}: there is nothing at this address; correct it.") from None
    except OSError as error:
        raise InputError(f"{given}: cannot be listed ({one_line(error)}).") from error
    pattern = None if fixed == base else base[len(fixed) :].lstrip("/")
    found = []
    for entry in entries:
        key = entry.path[len(root) :].lstrip("/")
        hidden = any(part.startswith(".") for part in key.split("/"))
        if entry.type != FileType.File or hidden:
            continue
        if pattern is None or fnmatchcase(key, pattern):
            found.append((key, f"{fixed.rstrip('/')}/{key}{options}"))
    return sorted(found)


def _listed(given: str) -> Iterator[tuple[str, str]]:
    """(key, place) of a text file's lines; relative paths are looked up beside it, too."""
    try:
        with opened(given) as file:
            lines = [line.strip() for line in file.read().decode().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{given}: expected a text file in UTF-8 ({one_line(error)}); give another one."
        ) from error
    beside = None if is_remote(given) else Path(given).expanduser().parent
    for line in filter(None, lines):
        place = line
        if beside is not None and not is_remote(line):
            path = Path(line).expanduser()
            if not path.is_absolute() and not path.exists():
                place = str(beside / path)
        yield line, place


def _file_shards(files: Iterable[tuple[str, str]], size: int) -> Iterator[Shard]:
    """Shards of (key, place) pairs.

    Raises:
        InputError: there are none.
    """
    iterator, index = iter(files), 0
    while chunk := list(islice(iterator, size)):
        text = "\0".join(part for pair in chunk for part in pair)
        packed = zlib.compress(text.encode("utf-8", "surrogateescape"), 1)
        yield Shard(index, "files", packed, count=len(chunk))
        index += 1
    if not index:
        raise InputError("SOURCE: the list is empty; write a path or URL on every line.")


def _parquet_shards(
    places: list[str], size: int, image_column: str | None, key_column: str | None
) -> Iterator[Shard]:
    """Rows of Parquet files, at most ``size`` each; no shard crosses a file's end."""
    need_pyarrow("SOURCE: Parquet")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    index = 0
    for place in places:
        try:
            with opened(place) as file:
                table = ParquetFile(file)
                rows, schema = table.metadata.num_rows, table.schema_arrow
        except (ArrowException, OSError) as error:
            raise InputError(f"{place}: cannot be read as Parquet ({one_line(error)}).") from error
        columns = _columns(schema, place, image_column, key_column)
        for start in range(0, rows, size):
            count = min(size, rows - start)
            yield Shard(index, "parquet", place.encode(), start, count, columns)
            index += 1


def _columns(schema, place: str, image: str | None, key: str | None) -> tuple[str, bool, str]:
    """The picture's column, whether it holds bytes, and the key's column or ``''``."""
    held = {field.name: _holds(field.type) for field in schema}
    if image is None:
        choices = [name for name in _BYTES_COLUMNS if held.get(name) == "bytes"]
        choices = choices or [name for name, what in held.items() if what == "bytes"]
        choices = choices or [name for name in _URI_COLUMNS if held.get(name) == "text"]
        if not choices:
            raise InputError(
                f"{place}: no column of pictures' bytes or paths is known among "
                f"{', '.join(held)}; name it by --image-column."
            )
        image = choices[0]
    for option, name in (("--image-column", image), ("--key-column", key)):
        if name is not None and name not in held:
            raise InputError(
                f"{option}: {place} has no column {name!r}, but {', '.join(held)}; choose one."
            )
    if held[image] is None:
        raise InputError(
            f"{place}: the column {image!r} holds neither bytes nor text; name another one by "
            "--image-column."
        )
    return image, held[image] == "bytes", key or ""


def _holds(kind) -> str | None:
    """``'bytes'`` (also a struct with a field ``bytes``), ``'text'``, or None."""
    import pyarrow.types as types

    if types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return "bytes" if "bytes" in names else None
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "bytes"
    return "text" if types.is_string(kind) or types.is_large_string(kind) else None
