"""Published figures, and whether a run may be held against them.

A config names the row it reproduces: ``paper = dict(method, benchmark, miou, source)``. Add
``texts='authors'`` there when the auxiliary texts are the authors' own files, and ``differs='…'``
where the config departs from the published protocol: what in, so that no run is called comparable.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..clip_model import OPENAI_MODELS
from ..data.benchmarks import BENCHMARKS as TABLE
from ..data.benchmarks import by_dataset, by_label
from ..errors import InputError
from ..runtime.files import PROJECT_ROOT, read_text, resolve_path
from .settings import NOT_COUNTED, leaves

# Name in the papers' tables → data set class, in the papers' order.
BENCHMARKS = {row.label: row.dataset for row in TABLE.values()}
PAPER_WEIGHTS = "ViT-B/16"


@dataclass(frozen=True)
class Published:
    """One row of a published table; ViT-B/16 with OpenAI's weights unless the setting says other.

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
_DINO8, _DINO16 = (
    f"second backbone: DINO ViT-B/{patch} (ImageNet-1k without labels, Apache-2.0)"
    for patch in (8, 16)
)
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
    # Those that look through a second backbone as well.
    _row("ProxyCLIP", _DINO8, _LATER, 61.3, 35.3, 37.5, 80.3, 38.1, 39.1, 20.2, 26.5),
    _row("LPOSS", f"CLIP of LAION-2B; {_DINO16}", _NOTES,
                                61.1,  34.6,  33.4,  78.8,  37.3,  37.8,  21.8,  25.9),
    _row("GLA-CLIP", _DINO8, "paper", 66.3, 36.1, 37.7, None, 40.8, None, 20.0),
    _row("CASS", _DINO8, _LATER, 65.8, 36.7,  37.8,  87.8,  39.4,  40.2,  20.4,  26.7),
    _row("Trident", f"{_DINO16}; SAM ViT-B (SA-1B, Apache-2.0)", _LATER,
                                67.1,  38.6,  41.1,  84.5,  42.9,  42.2,  21.9,  28.3),
    _row("CorrCLIP", f"{_DINO8}; regions: SAM 2.1 (SA-V, SA-1B, Apache-2.0)", _LATER,
                                72.2,  41.6,  40.7,  88.7,  44.6,  47.1,  23.7,  30.7),
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
_FILES = ("model.name_path", "model.auxiliary_text_path")
# Settings that change no score, or have a check of their own.
# What weights are computed with is compared with the weights.
_FREE = (NOT_COUNTED - set(_FILES)) | {"model.clip_config", "test_evaluator.output_dir"}
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
    found, expected = (
        dict(leaves({part: config[part] for part in _DECISIVE if part in config}))
        for config in (settings, shipped)
    )
    changes = []
    for key in sorted({*found, *expected}):
        value, usual = found.get(key, _ABSENT), expected.get(key, _ABSENT)
        if key in _FREE or value == usual:
            continue
        if value is _ABSENT and key.rpartition(".")[0] in found:  # its whole group was replaced
            continue
        if key in _FILES and _say_the_same(value, usual):
            continue
        if key == "model.precision" and value == "fp32":  # the most exact one
            continue
        changes.append(f"{key} not set" if value is _ABSENT else f"{key}={value!r}")
    return changes


# ---- words and texts ----------------------------------------------------------------------------


def content_sha256(path: Path) -> str:
    """Checksum of what a file of class names or auxiliary texts says.

    Line ends, blank ends of lines and spaces around the separators say nothing; neither do capital
    letters, which CLIP's tokeniser lowers.

    Raises:
        InputError: it cannot be read.
    """
    lines = [re.sub(r"\s*(,|>=)\s*", r"\1", line.strip()) for line in read_text(path).split("\n")]
    return hashlib.sha256("\n".join(filter(None, lines)).lower().encode()).hexdigest()


def _say_the_same(one: Any, other: Any) -> bool:
    try:
        return len({content_sha256(resolve_path(path, "")) for path in (one, other)}) == 1
    except (InputError, TypeError):
        return False


@cache
def own_texts() -> dict[str, str]:
    """What this project's auxiliary texts say, as checksums, and where they lie."""
    folder = PROJECT_ROOT / "aux_texts"
    return {content_sha256(path): path.name for path in sorted(folder.glob("*.txt"))}


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


def compare_with_paper(record: Mapping[str, Any]) -> Comparison:
    """Holds a run's record (:mod:`itaclip.evaluation.record`) against the row its config names.

    Comparable is a run of the whole split with the shipped config's settings, OpenAI's weights, the
    published class names and the paper's auxiliary texts. Names are compared by what their file
    says with the shipped file, which holds the published ones. The authors' texts are not part of
    this project: that a file is theirs can only be said in the config (``paper.texts='authors'``),
    and is not believed of texts that are this project's.
    """
    paper, config = record["paper"] or {}, record["config"]
    benchmark = paper.get("benchmark") or record["data"]["benchmark"]
    shipped, changes = config["shipped"], config["changes"]
    texts = record["texts"]["auxiliary"] and "model.auxiliary_text_path="  # looked at below
    counted = (change for change in changes if not (texts and change.startswith(texts)))
    reasons = [f"other settings than {shipped}: {change}" for change in counted]
    if paper and shipped is None:
        reasons.append("no shipped config has this row, so the settings cannot be compared")
    if uses_oracle(config["resolved"].get("model")):
        reasons.insert(0, ORACLE)
    edited = set(record["versions"].get("changed_files") or ())
    reasons += [f"{path} was changed after the last commit" for path in _read_by(shipped, edited)]
    return Comparison(
        method=paper.get("method"),
        benchmark=benchmark,
        source=paper.get("source"),
        published=paper.get("miou"),
        measured=record["results"]["mIoU"],
        reasons=[*_other_data(record, benchmark), *reasons, *_other_inputs(record, paper)],
    )


def uses_oracle(model: Mapping[str, Any] | None) -> bool:
    """Whether a config's model reads the ground truth: its figure is an upper bound, no result."""
    pruning = (model or {}).get("class_pruning")
    return isinstance(pruning, Mapping) and pruning.get("rule") == "oracle"


ORACLE = "class pruning by the oracle: the model was told the classes of every image"


def _read_by(shipped: str | None, files: Collection[str]) -> list[str]:
    """Which of some files the shipped config is made of."""
    if shipped is None:
        return []
    own = [path for path in files if path == shipped or path.startswith("configs/_base_/")]
    names = [path for path in files if path.startswith("configs/cls_")]
    text = (PROJECT_ROOT / shipped).read_text(encoding="utf-8") if own or names else ""
    named = (path for path in [*own, *names] if path == shipped or Path(path).name in text)
    return sorted(named)


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
    if auxiliary is None:
        return
    if (own := own_texts().get(auxiliary.get("content", ""))) is not None:
        yield f"the auxiliary texts ({auxiliary['path']}) are this project's {own}, not the paper's"
    elif paper.get("texts") != "authors":
        yield (
            f"the auxiliary texts ({auxiliary['path']}) are not known to be the paper's; if they "
            "are the authors' own, say so in the config: paper.texts='authors'"
        )


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
        + " - PARTIAL RESULT" * bool(record.get("partial"))
        + " - ORACLE" * uses_oracle(record["config"]["resolved"].get("model")),
    ]
    if comparison.published is None:
        why = "the paper has no such row" if comparison.method else "the config names no paper row"
        return [*lines, f"  published: no figure ({why})", *_partial(comparison)]
    lines.append(
        f"  published: {comparison.published:.2f} mIoU ({comparison.source}); "
        f"difference {comparison.difference:+.2f}"
    )
    if comparison.comparable:
        return [
            *lines,
            f"  comparable: same settings, weights and class names, full split{_word(record)}",
        ]
    return [*lines, "  NOT comparable:", *(f"    - {reason}" for reason in comparison.reasons)]


def _word(record: Mapping[str, Any]) -> str:
    """What nobody can check is said to be so."""
    auxiliary = record["texts"]["auxiliary"]
    if auxiliary is None:
        return ""
    return (
        f"; auxiliary texts: the authors', by the config's word (sha256 {auxiliary['sha256'][:12]})"
    )


def _partial(comparison: Comparison) -> list[str]:
    """Without a row to compare with, what else was special still matters to a reader."""
    if not comparison.reasons:
        return []
    return [
        "  NOT comparable with full runs of the shipped configs:",
        *(f"    - {reason}" for reason in comparison.reasons),
    ]
