"""Published figures, and whether a run may be held against them.

A config names the row it reproduces: ``paper = dict(method, benchmark, miou, source)``. Add
``texts='authors'`` there when the auxiliary texts are the authors' own files, and ``differs='…'``
where the config departs from the published protocol: what in, so that no run is called comparable.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..clip_model import OPENAI_MODELS
from ..data.benchmarks import BENCHMARKS as TABLE
from ..data.benchmarks import by_dataset, by_label
from ..errors import InputError
from ..runtime.files import PROJECT_ROOT, resolve_path

# Name in the papers' tables → data set class, in the papers' order.
BENCHMARKS = {row.label: row.dataset for row in TABLE.values()}
PAPER_WEIGHTS = "ViT-B/16"


@dataclass(frozen=True)
class Published:
    """One row of a published table; ViT-B/16 with OpenAI's weights throughout.

    Attributes:
        method: its name.
        setting: what tells it from the method's other rows.
        source: where it was read.
        miou: figures in percent, by benchmark.
    """

    method: str
    setting: str
    source: str
    miou: dict[str, float]


def _row(method: str, setting: str, source: str, *figures: float | None) -> Published:
    pairs = zip(BENCHMARKS, figures, strict=False)
    return Published(method, setting, source, {k: v for k, v in pairs if v is not None})


_REPO = "authors' repository"
_LATER = "tables of later papers"
_NOTES = "secondary notes on the paper"
# fmt: off
PUBLISHED = (
    #                           VOC21  C60    Object VOC20  City   C59    ADE    Stuff
    _row("CLIP", "", _LATER,    18.6,  7.8,   6.5,   49.1,  6.7,   11.2,  3.2,   7.2),
    _row("MaskCLIP", "", _LATER, 43.4, 23.2,  20.6,  74.9,  24.9,  26.4,  11.9,  16.7),
    _row("CLIP Surgery", "", _REPO, None, None, None, None, 31.4, None,  None,  21.9),
    _row("GEM", "", _LATER,     46.2),
    _row("GEM", "", "rerun in ClearCLIP's repository",
                                None,  None,  None,   79.9,  30.8,  35.9,  15.7,  23.7),
    _row("SCLIP", "", "paper",  59.1,  30.4,  30.5,  80.4,  32.2,  34.2,  16.1,  22.4),
    _row("SCLIP", "PAMR", "paper", 61.7, 31.5, 32.1, 83.5,  34.1,  36.1,  17.8,  23.9),
    _row("SCLIP", "", _REPO,    59.63, 31.74, 33.52, 81.54, 32.34, 34.46, 16.45, 22.77),
    _row("NACLIP", "", "paper, first version", 58.8, 32.2, 33.2, 77.1, 35.5, 35.2, 17.4, 22.9),
    _row("NACLIP", "PAMR", "paper, first version", 62.4, 35.0, 36.2, 80.6, 38.3, 38.4, 19.1, 25.2),
    _row("NACLIP", "PAMR", _REPO, 64.07, 34.99, 36.19, 83.03, 38.27, 38.35, 19.05, 25.69),
    _row("ResCLIP", "", _REPO,  61.1,  33.5,  35.0,   86.0,  35.9,  36.8,  18.0,  24.7),
    _row("SC-CLIP", "", _LATER, 64.6,  36.8,  37.7,   84.3,  41.0,  40.1,  20.1,  26.6),
    _row("RF-CLIP", "", _NOTES, 64.8,  36.4,  37.9,   87.0,  41.3,  39.8,  20.4,  26.3),
    _row("RF-CLIP", "PAMR", _NOTES, 67.2, 37.9, 39.1, 87.0,  43.0,  41.4,  21.0,  27.5),
    _row("PEARL", "alignment alone", _REPO, 59.2, None, None, None, 35.0),
    _row("PEARL", "propagation", _REPO, 64.1, 35.1, 37.3, 86.9, 37.6, 38.6, 19.4, 26.3),
    _row("ITACLIP", "", "paper, Table 5", 65.6, 36.0, 36.4, None, 39.2, None, None, 26.3),
    _row("ITACLIP", "PAMR", "paper, Table 1", 67.9, 37.5, 37.7, None, 40.2, None, None, 27.0),
)
# fmt: on


def benchmark_of(dataset_class: str) -> str | None:
    """A data set class's name in the papers' tables; None for data of one's own."""
    known = by_dataset(dataset_class)
    return known.label if known else None


def expected_images(benchmark: str | None) -> int | None:
    """Number of images in the split that the papers evaluate; None if unknown."""
    known = by_label(benchmark)
    return (known.images.get("val") or known.images["test"]) if known else None


# ---- settings: this run against the shipped config ----------------------------------------------

# Parts of a config that decide the scores.
_DECISIVE = ("model", "test_dataloader", "test_evaluator", "test_cfg")
LOADING = frozenset(
    {
        "test_dataloader.batch_size",
        "test_dataloader.dataset.data_root",
        "test_dataloader.num_workers",
        "test_dataloader.persistent_workers",
        "test_dataloader.pin_memory",
        "test_dataloader.prefetch_factor",
        "test_evaluator.collect_device",
    }
)
"""Keys of a config that say how data is loaded, not what is computed."""
# Settings of them that change the speed alone, or have a check of their own.
_FREE = LOADING | {
    "model.clip_config",  # weights are compared, with what they are computed with
    "model.clip_model",
    "model.text_cache",
    "model.window_batch",
    "test_evaluator.output_dir",
}
_FILES = ("model.name_path", "model.auxiliary_text_path")
_ABSENT = object()


def shipped_config(path: Path, paper: Mapping[str, Any]) -> Path | None:
    """The config of this project that reproduces a row: the file itself, or the one it stands for.

    Args:
        path: the config that runs.
        paper: its ``paper`` entry.
    """
    folder = PROJECT_ROOT / "configs"
    if path.resolve().is_relative_to(folder):
        return path
    known = by_label(paper.get("benchmark")) if paper else None
    if known is None:
        return None
    candidate = PROJECT_ROOT / known.config(str(paper.get("method")))
    return candidate if candidate.is_file() else None


def project_path(path: Path) -> str:
    """Relative to the project where it lies there: records are to be shown to others."""
    path = path.resolve()
    inside = path.is_relative_to(PROJECT_ROOT)
    return path.relative_to(PROJECT_ROOT).as_posix() if inside else str(path)


def settings_changes(settings: Mapping[str, Any], shipped: Mapping[str, Any]) -> list[str]:
    """Decisive settings that differ from the shipped config's, as ``key=value``, sorted."""
    found, expected = dict(_leaves(settings)), dict(_leaves(shipped))
    changes = []
    for key in sorted({*found, *expected}):
        value, usual = found.get(key, _ABSENT), expected.get(key, _ABSENT)
        if key in _FREE or value == usual:
            continue
        if value is _ABSENT and key.rpartition(".")[0] in found:  # its whole group was replaced
            continue
        if key in _FILES and _same_file(value, usual):
            continue
        if key == "model.precision" and value == "fp32":  # the most exact one
            continue
        changes.append(f"{key} not set" if value is _ABSENT else f"{key}={value!r}")
    return changes


def _leaves(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Decisive settings as (dotted key, value); tuples and lists of plain values are values."""

    def walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                yield from walk(inner, f"{key}.{name}")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            for index, inner in enumerate(value):
                yield from walk(inner, f"{key}.{index}")
        else:
            yield key, tuple(value) if isinstance(value, list) else value

    for part in _DECISIVE:
        if part in settings:
            yield from walk(settings[part], part)


def _same_file(one: Any, other: Any) -> bool:
    try:
        return resolve_path(one, "").read_bytes() == resolve_path(other, "").read_bytes()
    except (InputError, OSError, TypeError):
        return False


# ---- comparison ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A run beside the paper's row.

    Attributes:
        method, benchmark, source: the row; None where the config names none.
        published, measured: mIoU in percent, or None.
        reasons: why the run is not comparable, one sentence each; empty if it is.
    """

    method: str | None
    benchmark: str | None
    source: str | None
    published: float | None
    measured: float | None
    reasons: list[str] = field(default_factory=list)

    @property
    def difference(self) -> float | None:
        """Measured minus published, in points."""
        if self.published is None or self.measured is None:
            return None
        return round(self.measured - self.published, 2)

    @property
    def comparable(self) -> bool:
        return self.published is not None and self.measured is not None and not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        return {**vars(self), "difference": self.difference, "comparable": self.comparable}


def compare(record: Mapping[str, Any]) -> Comparison:
    """Holds a run's record (see :mod:`itaclip.evaluation.records`) against the row that its config
    names."""
    paper, config = record["paper"] or {}, record["config"]
    benchmark = paper.get("benchmark") or record["data"]["benchmark"]
    shipped, changes = config["shipped"], config["changes"]
    reasons = [f"other settings than {shipped}: {change}" for change in changes]
    if paper and shipped is None:
        reasons.append("no shipped config has this row, so the settings cannot be compared")
    if shipped in (record["versions"].get("changed_files") or ()):
        reasons.append(f"{shipped} was changed after the last commit")
    return Comparison(
        method=paper.get("method"),
        benchmark=benchmark,
        source=paper.get("source"),
        published=paper.get("miou"),
        measured=record["results"]["mIoU"],
        reasons=[*_other_data(record, benchmark), *reasons, *_other_inputs(record, paper)],
    )


def _other_data(record: Mapping[str, Any], benchmark: str | None) -> Iterator[str]:
    if record.get("partial"):
        yield from record["partial"]
        return
    evaluated, expected = record["data"]["images_evaluated"], expected_images(benchmark)
    if expected is not None and evaluated != expected:
        yield f"{evaluated} images were evaluated, the full split has {expected}"


def _other_inputs(record: Mapping[str, Any], paper: Mapping[str, Any]) -> Iterator[str]:
    if paper.get("miou") is None:
        return
    if paper.get("differs"):
        yield f"the config departs from the published protocol: {paper['differs']}"
    weights = record["weights"]
    same = weights is not None and (
        weights["sha256"] == OPENAI_MODELS[PAPER_WEIGHTS][0]
        or weights.get("same_as") == PAPER_WEIGHTS
    )
    if not same:
        name = weights["name"] if weights else "unknown"
        yield f"the weights are {name}, not OpenAI's {PAPER_WEIGHTS}"
    auxiliary = record["texts"]["auxiliary"]
    if auxiliary is not None and paper.get("texts") != "authors":
        yield f"the auxiliary texts ({auxiliary['path']}) are not the paper's texts"


def comparison_lines(comparison: Comparison, record: Mapping[str, Any]) -> Sequence[str]:
    """The few lines that an evaluation ends with."""
    results, data = record["results"], record["data"]
    if comparison.measured is None:
        partial = "".join(f" Partial: {reason}." for reason in record.get("partial", ()))
        return [f"{data['images_evaluated']} images segmented; no score was computed.{partial}"]
    title = ", ".join(filter(None, (comparison.benchmark or data["dataset"], comparison.method)))
    lines = [
        title,
        f"  this run: {comparison.measured:.2f} mIoU over {results['valid_classes']} of "
        f"{len(results['classes'])} classes, {data['images_evaluated']} images"
        + " - PARTIAL RESULT"
        * bool(record.get("partial")),
    ]
    if comparison.published is None:
        why = "the paper has no such row" if comparison.method else "the config names no paper row"
        return [*lines, f"  published: no figure ({why})", *_partial(comparison)]
    lines.append(
        f"  published: {comparison.published:.2f} mIoU ({comparison.source}); "
        f"difference {comparison.difference:+.2f}"
    )
    if comparison.comparable:
        return [*lines, "  comparable: same settings, weights and texts, full split"]
    return [*lines, "  NOT comparable:", *(f"    - {reason}" for reason in comparison.reasons)]


def _partial(comparison: Comparison) -> list[str]:
    """Without a row to compare with, what else was special still matters to a reader."""
    if not comparison.reasons:
        return []
    return [
        "  NOT comparable with full runs of the shipped configs:",
        *(f"    - {reason}" for reason in comparison.reasons),
    ]
