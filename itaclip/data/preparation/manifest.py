"""Write down what was prepared, so that a score can say which data it belongs to."""

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .convert import MaskSummary, write_if_changed

FORMAT = 1


@dataclass
class SplitReport:
    """One split of one benchmark after preparation.

    Attributes:
        split: ``"val"`` or ``"train"``.
        tree: the benchmark's folder.
        images: number of images in the split.
        masks: what was found and done; its labels are the stored ones (before
            ``reduce_zero_label``).
        raw: folder of the raw masks, if it lies outside the tree.
        notes: further facts for the manifest, such as the route the masks came by.
    """

    split: str
    tree: Path
    images: int
    masks: MaskSummary
    raw: Path | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def entry(self, expected: int | None) -> dict[str, Any]:
        """Return the split's entry in the manifest."""
        values = {str(v): int(n) for v, n in enumerate(self.masks.histogram) if n}
        histogram = json.dumps(sorted((int(v), n) for v, n in values.items()))
        digests = "\n".join(f"{n} {d}" for n, d in sorted(self.masks.digests.items()))
        entry = {
            "images": self.images,
            "masks": self.masks.total,
            "expected": expected,
            "complete": expected is not None and self.masks.total == self.images == expected,
            "label_histogram": values,
            "histogram_sha256": hashlib.sha256(histogram.encode()).hexdigest(),
            "masks_sha256": hashlib.sha256(digests.encode()).hexdigest(),
            **self.notes,
        }
        if self.raw is not None:
            entry["raw"] = str(self.raw)
        return entry


def manifest_path(tree: Path, benchmark: str) -> Path:
    """Return where a benchmark's manifest lies: at the top of its tree."""
    return tree / f"manifest_{benchmark}.json"


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; a missing or damaged one is empty."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") == FORMAT:
            return content
    return {}


def write_manifest(
    benchmark: str,
    classes: int,
    expected: dict[str, int],
    reports: list[SplitReport],
) -> Path:
    """Write a benchmark's manifest, keeping the entries of splits prepared earlier.

    It holds no dates: preparing the same data again leaves the file untouched.
    """
    path = manifest_path(reports[0].tree, benchmark)
    splits = dict(read_manifest(path).get("splits", {}))
    for report in reports:
        splits[report.split] = report.entry(expected.get(report.split))
    content = {
        "format": FORMAT,
        "benchmark": benchmark,
        "classes": classes,
        "splits": {split: splits[split] for split in sorted(splits)},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_if_changed(path, text.encode("utf-8"))
    return path
