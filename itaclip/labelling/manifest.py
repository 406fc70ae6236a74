"""``manifest.json``: what a run labels and how, what is done, and what could not be used.

Parts are the truth about what is done; the manifest sums them up.
"""

import json
from datetime import UTC, datetime
from typing import Any

from ..errors import InputError
from .parts import Done, Parts, part_index, part_name
from .places import Place
from .source import Source

NAME = "manifest.json"
_FORMAT = 1


class Manifest:
    """The manifest of a run, new or continued.

    Args:
        place: where parts go.
        parts: what reads them.
        identity: all that decides about the labels, in plain types: ``source``, ``model``,
            ``words``, ``settings``.
        source: its shards.
        start: about this start: versions, command, engine.

    Raises:
        InputError: the folder holds something else, or a run of other settings.
    """

    def __init__(
        self, place: Place, parts: Parts, identity: dict[str, Any], source: Source, start: dict
    ) -> None:
        self.place, self.identity = place, identity
        self.shards = len(source.shards)
        sizes = place.sizes()
        earlier = self._read(sizes)
        start = {"time": _now(), "source": source.given} | start
        self.starts = [*(earlier or {}).get("starts", []), start]
        known = _known(earlier) if earlier else {}
        self.done: dict[int, Done] = {}
        for name, size in sizes.items():
            index = part_index(name, parts.kind)
            if index is None:
                continue
            held = known.get(name)
            if held is not None and held.size != size:
                raise InputError(
                    f"{place.path(name)}: has {size} bytes, but {held.size} were written; delete "
                    "it, and it is made again."
                )
            self.done[index] = parts.read(index) if held is None else held
        self.kind = parts.kind

    def _read(self, sizes: dict[str, int]) -> dict | None:
        where = self.place.path(NAME)
        others = [name for name in sizes if not name.startswith(".") and name != NAME]
        if NAME not in sizes:
            if others:
                raise InputError(
                    f"--out: {self.place.where}: expected a new or empty folder, or one of an "
                    f"earlier run, but it holds {others[0]}; choose another place."
                )
            return None
        try:
            found = json.loads(self.place.read(NAME))
            if found["format"] != _FORMAT:
                raise ValueError(f"format {found['format']!r}")
            earlier = {key: found[key] for key in self.identity}
            _known(found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{where}: is no manifest of a run ({type(error).__name__}: {error}); choose "
                "another --out."
            ) from None
        changed = list(_differences(earlier, json.loads(json.dumps(self.identity))))
        if changed:
            raise InputError(
                f"--out: {self.place.where} holds a run of other settings: {'; '.join(changed)}; "
                "choose another place, or the same settings."
            )
        return found

    @property
    def pictures(self) -> int:
        return sum(done.pictures for done in self.done.values())

    @property
    def failed(self) -> int:
        return sum(len(done.failures) for done in self.done.values())

    def write(self) -> None:
        parts = [(part_name(index, self.kind), self.done[index]) for index in sorted(self.done)]
        content = {
            "format": _FORMAT,
            "complete": len(self.done) == self.shards,
            "pictures": self.pictures,
            "failed": self.failed,
            "shards": self.shards,
            "shards_done": len(self.done),
            **self.identity,
            "starts": self.starts,
            "failures": [
                {"part": name, "key": key, "error": error}
                for name, done in parts
                for key, error in done.failures
            ],
            "parts": [[name, done.pictures, done.size] for name, done in parts],
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        self.place.write(NAME, text.encode("utf-8", "backslashreplace"))


def _known(manifest: dict) -> dict[str, Done]:
    """Part → what it holds, as a manifest says."""
    failures: dict[str, list[tuple[str, str]]] = {}
    for entry in manifest["failures"]:
        failures.setdefault(entry["part"], []).append((str(entry["key"]), str(entry["error"])))
    return {
        str(name): Done(int(pictures), tuple(failures.get(name, ())), int(size))
        for name, pictures, size in manifest["parts"]
    }


def _differences(earlier: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*earlier, *now])
        return [
            line
            for key in keys
            for line in _differences(
                earlier.get(key), now.get(key), f"{path}.{key}" if path else str(key)
            )
        ]
    return [] if earlier == now else [f"{path} was {_short(earlier)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
