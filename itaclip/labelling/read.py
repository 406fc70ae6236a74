"""Shards into rows: a picture's file and key, or the sentence why there is none.

A row has ``shard``, ``index`` (its place in the shard), ``last`` (it is the shard's last one),
``key``, ``image`` (bytes) and ``error``. A shard without pictures has one row of index -1.
"""

import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..errors import InputError
from ..predict.images import SUFFIXES
from ..runtime.files import one_line
from .places import OutageError, check_bytes, check_outage, is_remote, opened, read_bounded
from .source import Shard, base_name

Row = dict[str, Any]
T = TypeVar("T")
R = TypeVar("R")
_AT_ONCE = 16  # files asked of an object store at a time
_PARQUET_ROWS = 16


def read_shard(shard: Shard) -> Iterator[Row]:
    """The rows of a shard, in order."""
    reader = {"files": _read_files, "parquet": _read_parquet, "tar": _read_tar}[shard.kind]
    waiting: Row | None = None
    count = 0
    for count, (key, image, error) in enumerate(reader(shard), 1):
        if waiting is not None:
            yield waiting
        waiting = {
            "shard": shard.index,
            "index": count - 1,
            "last": False,
            "key": _text(key),
            "image": image,
            "error": None if error is None else _text(error),
        }
    if waiting is None:
        nothing = {"key": "", "image": None, "error": "no pictures"}
        waiting = {"shard": shard.index, "index": -1, **nothing}
    yield waiting | {"last": True}


def _text(text: str) -> str:
    """Without what is no Unicode: names of files may be any bytes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


Found = tuple[str, bytes | None, str | None]


def _read_files(shard: Shard) -> Iterator[Found]:
    files = shard.files()
    if any(is_remote(place) for _, place in files):
        yield from ahead(_read_one, files, _AT_ONCE)
    else:
        yield from map(_read_one, files)


def _read_one(file: tuple[str, str]) -> Found:
    key, place = file
    try:
        return key, read_bounded(place), None
    except OutageError:
        raise
    except InputError as error:
        return key, None, str(error)


def _read_tar(shard: Shard) -> Iterator[Found]:
    """Pictures of a tar file, as WebDataset writes them; other members are passed over."""
    name = base_name(shard.place)
    try:
        with opened(shard.place) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                if not member.isfile() or not member.name.lower().endswith(SUFFIXES):
                    continue
                key = f"{name}/{member.name}"
                try:
                    check_bytes(member.size, key)
                except InputError as error:
                    yield key, None, str(error)
                    continue
                content = tar.extractfile(member)
                yield key, content.read(), None
    except (tarfile.TarError, EOFError, OSError, InputError) as error:
        check_outage(error, shard.place)
        yield (
            name,
            None,
            f"{shard.place}: the archive is damaged or incomplete from here on "
            f"({one_line(error)}); fetch it again.",
        )


def _read_parquet(shard: Shard) -> Iterator[Found]:
    from pyarrow import ArrowException

    done = 0
    name = base_name(shard.place)
    try:
        for found in _parquet_rows(shard, name):
            yield found
            done += 1
    except (ArrowException, OSError, InputError) as error:
        check_outage(error, shard.place)
        for row in range(shard.start + done, shard.start + shard.count):
            yield (
                f"{name}#{row}",
                None,
                f"{shard.place}: row {row} cannot be read ({one_line(error)}); fetch it again.",
            )


def _parquet_rows(shard: Shard, name: str) -> Iterator[Found]:
    from pyarrow.parquet import ParquetFile

    column, holds_bytes, key_column = shard.columns
    wanted = [column, key_column] if key_column else [column]
    with opened(shard.place) as file:
        table = ParquetFile(file)
        groups, before, first = [], 0, 0
        for number in range(table.metadata.num_row_groups):
            rows = table.metadata.row_group(number).num_rows
            if before + rows > shard.start and before < shard.start + shard.count:
                if not groups:
                    first = before
                groups.append(number)
            before += rows
        row = first
        batches = table.iter_batches(_PARQUET_ROWS, row_groups=groups, columns=wanted)
        for batch in batches:
            for position in range(batch.num_rows):
                if row >= shard.start + shard.count:
                    return
                if row >= shard.start:
                    key = f"{name}#{row}"
                    if key_column:
                        key = str(batch.column(key_column)[position].as_py())
                    value = batch.column(column)[position].as_py()
                    yield _from_cell(value, holds_bytes, key, f"{name}#{row}")
                row += 1


def _from_cell(value: object, holds_bytes: bool, key: str, where: str) -> Found:
    if isinstance(value, dict):
        value = value.get("bytes")
    if value is None:
        return key, None, f"{where}: the cell is empty; leave the row out."
    if holds_bytes:
        try:
            check_bytes(len(value), where)
        except InputError as error:
            return key, None, str(error)
        return key, value, None
    return _read_one((key, value))


def ahead(function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """``map`` by ``count`` threads, in order and never more than that many items ahead."""
    waiting: deque = deque()
    pool = ThreadPoolExecutor(count)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
