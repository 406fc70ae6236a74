"""What a shard becomes: a Parquet file, or PNGs and a file of lines that says all about them.

A part is written when its last row is there, as a whole, and its bytes depend on its rows alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

from .places import Place
from .stages import Row

FORMATS = ("parquet", "png")
_SUFFIX = {"parquet": ".parquet", "png": ".jsonl"}
# Of PNGs' paths: bytes of a name, folders, and what a name may hold beside letters and digits.
_MAX_NAME, _MAX_DEPTH, _PLAIN = 120, 8, " !#$&'()+,;=@[]{}^-_.~"


@dataclass(frozen=True)
class Done:
    """A finished part.

    Attributes:
        pictures: rows.
        failures: (key, sentence) of those without labels.
        size: bytes of the part's file.
    """

    pictures: int
    failures: tuple[tuple[str, str], ...]
    size: int


def part_name(index: int, kind: str) -> str:
    return f"part-{index:06d}{_SUFFIX[kind]}"


def part_index(name: str, kind: str) -> int | None:
    """The number in a part's name; None for other files."""
    stem = name.removeprefix("part-").removesuffix(_SUFFIX[kind])
    return int(stem) if stem.isdecimal() and part_name(int(stem), kind) == name else None


class Parts:
    """Writes parts from rows that come in any order, and from the same row more than once.

    Args:
        place: where to.
        kind: ``'parquet'`` or ``'png'``.
        on_row: called for every new row; what it raises ends the run.
    """

    def __init__(self, place: Place, kind: str, on_row: Callable[[Row], object]) -> None:
        self.place, self.kind, self.on_row = place, kind, on_row
        self._rows: dict[int, dict[int, Row]] = {}
        self._counts: dict[int, int] = {}
        self._written: set[int] = set()

    def add(self, row: Row) -> tuple[int, Done] | None:
        """Takes a row; the part and its number when it was the shard's last missing one."""
        shard, index = row["shard"], row["index"]
        if shard in self._written:
            return None
        rows = self._rows.setdefault(shard, {})
        if row["last"]:
            self._counts[shard] = index + 1
        if index >= 0 and index not in rows:
            self.on_row(row)
            rows[index] = row
        if len(rows) != self._counts.get(shard, -1):
            return None
        done = self._write(shard, [rows[i] for i in range(len(rows))])
        self._written.add(shard)
        del self._rows[shard], self._counts[shard]
        return shard, done

    def _write(self, shard: int, rows: Sequence[Row]) -> Done:
        name = part_name(shard, self.kind)
        lines = self.kind == "png"
        data = "".join(self._png(name, rows)).encode() if lines else _parquet(rows)
        self.place.write(name, data)
        failures = tuple((r["key"], r["error"]) for r in rows if r["error"] is not None)
        return Done(len(rows), failures, len(data))

    def _png(self, name: str, rows: Sequence[Row]) -> Iterator[str]:
        """Writes the pictures, and yields their lines; only these make the part a finished one."""
        folder, names = name.removesuffix(_SUFFIX["png"]), _Names()
        for row in rows:
            entry = {key: row[key] for key in ("key", "height", "width")}
            entry["labels"] = None
            if row["labels"] is not None:
                target = f"{folder}/{names.path(row['key'])}"
                self.place.write(target, row["labels"])
                entry["labels"] = target
            entry["found"] = [
                {k: v.decode() if isinstance(v, bytes) else v for k, v in one.items()}
                for one in row["found"]
            ]
            entry |= {key: row[key] for key in ("uncertainty", "error")}
            yield json.dumps(entry, ensure_ascii=False) + "\n"

    def read(self, index: int) -> Done:
        """What a part that an earlier start wrote holds."""
        data = self.place.read(part_name(index, self.kind))
        if self.kind == "parquet":
            from pyarrow.parquet import read_table

            rows = read_table(BytesIO(data), columns=["key", "error"]).to_pylist()
        else:
            rows = [json.loads(line) for line in data.splitlines()]
        failures = tuple((r["key"], r["error"]) for r in rows if r["error"] is not None)
        return Done(len(rows), failures, len(data))


def schema():
    """The columns of a Parquet part, as a ``pyarrow.Schema``."""
    import pyarrow as pa

    return pa.schema([("key", pa.string()), *((name, kind) for name, kind in columns())])


def columns() -> list[tuple]:
    """(name, pyarrow type) of what labelling adds to a picture's key."""
    import pyarrow as pa

    found = pa.struct(
        [
            ("index", pa.int32()),
            ("name", pa.string()),
            ("pixels", pa.int64()),
            ("area", pa.float64()),
            ("score", pa.float64()),
            ("rle", pa.binary()),
        ]
    )
    return [
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("labels", pa.binary()),
        ("found", pa.list_(found)),
        ("uncertainty", pa.float64()),
        ("error", pa.string()),
    ]


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    table = pa.Table.from_pylist(list(rows), schema())
    sink = BytesIO()
    # Labels are compressed as they are, and no two are alike.
    write_table(table, sink, compression="zstd", use_dictionary=["found.list.element.name"])
    return sink.getvalue()


class _Names:
    """Paths below a part's folder for keys that come from anywhere, each unlike those before."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._folders: set[str] = set()

    def path(self, key: str) -> str:
        """Of a PNG: the key's own path where file systems take it, else much like it."""
        parts = [part for part in key.replace("\\", "/").split("/") if part not in ("", ".")]
        *folders, name = [_safe(part) for part in parts[-_MAX_DEPTH:]] or ["picture"]
        number = 1
        while True:
            path = "/".join([*folders, f"{name}.png" if number == 1 else f"{name}-{number}.png"])
            low = path.lower()  # some file systems take upper and lower case for the same
            above = {low[:at] for at, character in enumerate(low) if character == "/"}
            if low not in self._files | self._folders and not above & self._files:
                break
            number += 1
            if above & self._files:
                folders = [f"{folder}-{number}" for folder in folders]
        self._files.add(low)
        self._folders |= above
        return path


def _safe(part: str) -> str:
    """A file's name without what leads elsewhere or is refused by some file system."""
    if not part.strip("."):
        return "_" * len(part[:_MAX_NAME])
    kept = "".join(c if c.isalnum() or c in _PLAIN else "_" for c in part)
    return kept.encode()[-_MAX_NAME:].decode(errors="ignore")
