"""The stages on tables, as Ray Data's workers run them; only the actor imports PyTorch."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import InputError
from .read import read_shard
from .source import Shard
from .stages import Row, Spec, decode, pack

if TYPE_CHECKING:
    import pyarrow as pa
    import ray


def read_table(batch: Mapping[str, Sequence[Shard]]) -> Iterator[pa.Table]:
    import pyarrow as pa

    kinds = pa.schema(
        [
            ("shard", pa.int64()),
            ("index", pa.int64()),
            ("last", pa.bool_()),
            ("key", pa.string()),
            ("image", pa.large_binary()),
            ("error", pa.string()),
        ]
    )
    for shard in batch["shard"]:
        for row in read_shard(shard):
            yield pa.Table.from_pylist([row], kinds)


def _through(
    table: pa.Table, function: Callable[[Row], Row], needs: Sequence[str], gives: Mapping, drops=()
) -> pa.Table:
    """Runs a stage on the rows of a table; columns that it does not know pass unchanged."""
    import pyarrow as pa

    needed = [name for name in needs if name in table.column_names]
    made = [function(row) for row in table.select(needed).to_pylist()]
    kept = [name for name in table.column_names if name not in gives and name not in drops]
    result = table.select(kept)
    for name, kind in gives.items():
        result = result.append_column(name, pa.array([row[name] for row in made], kind))
    return result


def decode_table(table: pa.Table, spec: Spec, image: str, key: str, version: str) -> pa.Table:
    import pyarrow as pa

    if __version__ != version:
        raise InputError(
            f"itaclip {__version__} is installed on {platform.node()}, but the run was started "
            f"with {version}; install the same version on every machine."
        )

    def one(row: Row) -> Row:
        return decode(row | {"image": row.get(image), "key": row.get(key)}, spec)

    gives = dict(pixels=pa.large_binary(), input_size=pa.list_(pa.int32()))
    gives |= dict(height=pa.int32(), width=pa.int32(), error=pa.string())
    return _through(table, one, [image, key, "error"], gives, drops=[image])


class SegmentTable:
    """An actor: one model, on a GPU, a share of one, or some threads of a CPU."""

    def __init__(
        self,
        skeleton: bytes,
        arrays: list[ray.ObjectRef],
        max_result_side: int | None,
        on_gpu: bool,
        threads: int,
    ) -> None:
        import ray

        from .labeller import Labeller, use_threads
        from .weights import put_together

        use_threads(threads)
        segmentor = put_together(skeleton, ray.get(arrays[0]))
        self.labeller = Labeller(segmentor.to("cuda" if on_gpu else "cpu"), max_result_side)

    def __call__(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        gives = dict(small=pa.large_binary(), small_size=pa.list_(pa.int32()))
        gives |= dict(score_of=pa.list_(pa.float64()), uncertainty=pa.float64())
        needs = ["pixels", "input_size", "height", "width", "key", "error"]
        return _through(table, self.labeller.segment, needs, gives, ["pixels", "input_size"])


def pack_table(table: pa.Table, spec: Spec) -> pa.Table:
    from .parts import columns

    gives = {name: kind for name, kind in columns() if name in ("labels", "found")}
    drops = ["small", "small_size", "score_of"]
    needs = [*drops, "height", "width", "error"]
    return _through(table, partial(pack, spec=spec), needs, gives, drops)
