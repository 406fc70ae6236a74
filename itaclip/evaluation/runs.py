"""Runs in a work dir: a folder each, its journal, and which one ``--resume`` continues.

work_dir/record.json                       the last run's record
work_dir/<time of the first start>/        the run's folder
    record.json                            once it is done
    journal/run.json                       what the result depends on, and the run's number
    journal/<start>-rank<N>.jsonl          finished images (see itaclip.evaluation.journal)
    journal/lock                           held while an evaluation writes there
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mmengine.dist import get_rank, get_world_size

from ..errors import InputError
from ..runtime.files import write_whole
from .distributed import first_of_machine, from_rank_zero, gather, rank_zero_first
from .identity import differences
from .journal import (
    FORMAT,
    HEADER,
    Entry,
    JournalFile,
    NotKeptError,
    checksum_of,
    digest_of_identity,
    read_header,
    read_journal,
)
from .selection import Selection, partial_reasons

JOURNAL = "journal"
_MAX_NAMED = 3  # files named in one message


@dataclass
class Run:
    """An evaluation under way: what is done, and where what comes is kept.

    Attributes:
        folder: the run's folder.
        start: name of this start, such as ``20260301_101500``.
        selection: the images to evaluate.
        identity: all that the result depends on.
        entries: finished images by index: before this start those of all processes, later this
            process's own as well.
        notes: sentences for the log.
    """

    folder: Path
    start: str
    selection: Selection
    identity: Mapping[str, Any] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    own: list[Entry] = field(default_factory=list)
    _lock: FileLock | None = None
    _unkept: bool = False

    def __post_init__(self) -> None:
        key = digest_of_identity(self.identity)
        self.file = JournalFile(self.folder / JOURNAL, self.start, get_rank(), key)

    @property
    def left(self) -> list[int]:
        """The images that are not finished."""
        return [index for index in self.selection.indices if index not in self.entries]

    @property
    def share(self) -> list[int]:
        """Those of them that this process has to do: every N-th."""
        return self.left[get_rank() :: get_world_size()]

    def add(self, entry: Entry) -> None:
        """Keeps a finished image, in memory and on the disk."""
        entry.start = self.start
        try:
            if not self._unkept:
                self.file.add(entry)
        except NotKeptError as error:
            self._unkept = True
            self.notes.append(
                f"The journal cannot hold what the metrics keep of an image ({error}), so this run "
                "cannot be continued after a stop."
            )
        self.entries[entry.index] = entry
        self.own.append(entry)

    def collect(self) -> list[Entry]:
        """All entries in data set order on rank 0; waits for all processes."""
        for part in gather(self.own):
            for entry in part if get_rank() == 0 else ():
                self.entries.setdefault(entry.index, entry)
        return [self.entries[i] for i in self.selection.indices if i in self.entries]

    @property
    def skipped(self) -> list[dict[str, str]]:
        """On rank 0 after :meth:`collect`: paths of left-out images, and why."""
        return [
            {"path": entry.path, "reason": entry.skipped}
            for _, entry in sorted(self.entries.items())
            if entry.skipped is not None
        ]

    @property
    def partial_reasons(self) -> list[str]:
        """On rank 0 after :meth:`collect`: why the result is partial; empty if it is not."""
        return partial_reasons(self.selection, self.skipped)

    def close(self) -> None:
        self.file.close()
        if self._lock is not None:
            self._lock.release()

    def hint(self) -> str:
        """What is kept and how to continue, for the message that ends an interrupted run."""
        entries, _ = read_journal(self.folder / JOURNAL)
        done, of = len(entries), len(self.selection.indices)
        if self._unkept or not done:
            return ""
        return (
            f"{done} of {of} images are kept in {self.folder / JOURNAL}; give the same command "
            "with --resume to continue"
        )


def open_run(
    work_dir: Path,
    log_dir: Path,
    identity: Mapping[str, Any],
    selection: Selection,
    loop: Any,
    resume: bool = False,
) -> Run:
    """A new run, or with ``resume`` the latest one in the work dir that has the same identity.

    All processes of a spread evaluation call this.

    Args:
        work_dir: where runs lie.
        log_dir: the folder of this start, named by its time; a new run takes it.
        identity: all that the result depends on, see :mod:`itaclip.evaluation.identity`.
        selection: the images to evaluate.
        loop: the data set's files (``paths``), who writes what (``plan``, ``outputs``), metrics.
            Outputs of finished images must be there as they were written, since a run's outputs are
            its own; others are made again.
        resume: continue.

    Raises:
        InputError: an unfinished run has another identity, its data changed since, or an
            evaluation is writing there; processes that differ in weights, texts or data.
    """
    _check_agreement(identity)
    lock: list[FileLock] = []

    def choose() -> tuple[str, list[str]]:
        name, notes = _choose(work_dir, log_dir, identity, resume)
        lock.append(_locked(work_dir / name / JOURNAL))
        return name, notes

    name, notes = from_rank_zero(choose)
    folder = work_dir / name
    journal = folder / JOURNAL
    loop.plan(selection.indices, folder)
    with rank_zero_first():
        if not (journal / HEADER).exists():
            header = {"format": FORMAT, "number": _next_number(work_dir), "identity": identity}
            write_whole(journal / HEADER, json.dumps(header, indent=1, ensure_ascii=False) + "\n")
    found, remarks = {}, []
    if first_of_machine():
        found, remarks = read_journal(journal)
        metrics = len(loop.evaluator.metrics)
        found = {i: entry for i, entry in found.items() if _complete(entry, metrics)}
        found = {i: found[i] for i in selection.indices if i in found}
        if lost := [i for i, entry in found.items() if _outputs_lost(entry, loop.outputs(i))]:
            remarks.append(
                f"{len(lost)} finished images are evaluated again, since their label maps or "
                f"overlays are missing or another run's: {found[lost[0]].path} …"
            )
        found = {i: entry for i, entry in found.items() if i not in set(lost)}
    everything: dict[int, Entry] = {}
    for part, sentences in gather((found, remarks)):
        everything.update(part)  # the same images, where machines share the work dir
        notes += [sentence for sentence in sentences if sentence not in notes]
    entries = {i: everything[i] for i in selection.indices if i in everything}
    _check_inputs(entries, loop.paths, folder)
    if entries:
        notes.append(f"Continuing {folder}: {len(entries)} of {len(selection.indices)} images done")
    run = Run(folder, log_dir.name, selection, identity, entries, notes)
    run._lock = lock[0] if lock else None
    return run


def _check_agreement(identity: Mapping[str, Any]) -> None:
    """All processes must see the same weights, texts, data and code, and compute alike."""
    everyone = gather(identity)
    for rank, other in enumerate(everyone):
        if (clause := differences(everyone[0], other)) is not None:
            raise InputError(
                f"process {rank} would evaluate something else than process 0: {clause}; give all "
                "machines the same files and devices."
            )


def _choose(
    work_dir: Path, log_dir: Path, identity: Mapping[str, Any], resume: bool
) -> tuple[str, list[str]]:
    """The name of the run's folder, and what to say about it."""
    known, unknown = _runs(work_dir)
    unfinished = [(path, old) for path, old in known if _unfinished(path)]
    if resume:
        for path, old in known:
            if differences(old, identity) is None:
                return path.name, []
        if unfinished:
            path, old = unfinished[0]
            raise InputError(
                f"--resume: {path} holds an unfinished evaluation of something else "
                f"({differences(old, identity)}); undo the change, or leave --resume out to start "
                "anew."
            )
        if unknown:
            raise InputError(
                f"--resume: {unknown[0] / JOURNAL / HEADER} is missing, damaged or of another "
                "version, so nobody knows what the finished images beside it are of; put it back, "
                "or leave --resume out to start anew."
            )
        return _new(log_dir), [f"--resume: nothing to continue in {work_dir}; starting anew"]
    notes = []
    for path, _ in unfinished[:1]:
        done = len(read_journal(path / JOURNAL)[0])
        notes.append(
            f"{path} holds an unfinished evaluation with {done} finished images, which is left as "
            "it is; this run starts anew (--resume would have continued it)."
        )
    return _new(log_dir), notes


def _runs(work_dir: Path) -> tuple[list[tuple[Path, dict[str, Any]]], list[Path]]:
    """Runs and their identities, the latest first; and unfinished ones whose head is damaged."""
    known, unknown = [], []
    for journal in work_dir.glob(f"*/{JOURNAL}"):
        header = read_header(journal)
        if header is not None:
            known.append((header["number"], journal.parent, header["identity"]))
        elif _unfinished(journal.parent):
            unknown.append(journal.parent)
    # By number: the clock, after which folders are named, may have been set back.
    known.sort(key=lambda run: (run[0], run[1].name), reverse=True)
    return [(path, identity) for _, path, identity in known], unknown


def _unfinished(run: Path) -> bool:
    return not (run / "record.json").exists() and any((run / JOURNAL).glob("*.jsonl"))


def _next_number(work_dir: Path) -> int:
    headers = (read_header(journal) for journal in work_dir.glob(f"*/{JOURNAL}"))
    return 1 + max((header["number"] for header in headers if header), default=0)


def _new(log_dir: Path) -> str:
    """A name that no run has: that of the start's folder, or with a number behind it."""
    for number in range(1, 1000):
        folder = log_dir if number == 1 else log_dir.with_name(f"{log_dir.name}-{number}")
        try:
            (folder / JOURNAL).mkdir(parents=True)
        except FileExistsError:  # two starts within one second
            continue
        return folder.name
    raise FileExistsError(f"{log_dir}: no free name for a run")


def _locked(journal: Path) -> FileLock:
    lock = FileLock(journal / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"--resume: another process is evaluating into {journal.parent}; wait for it to end, "
            "or end it."
        ) from None
    return lock


def _check_inputs(
    entries: Mapping[int, Entry], paths: Callable[[int], Sequence[str]], folder: Path
) -> None:
    """Finished images must be what they were."""
    mine = list(entries.values())[get_rank() :: get_world_size()]
    changed = [entry.path for entry in mine if entry.files != checksum_of(paths(entry.index))]
    everything = [path for part in gather(changed) for path in part]
    if everything:
        raise InputError(
            f"--resume: image or mask changed after it was evaluated in {folder}: "
            f"{', '.join(everything[:_MAX_NAMED])}"
            f"{f' and {len(everything) - _MAX_NAMED} more' * (len(everything) > _MAX_NAMED)}; put "
            "the data back, or leave --resume out to start anew."
        )


def _complete(entry: Entry, metrics: int) -> bool:
    """Whether every metric's part of an image is there."""
    return entry.skipped is not None or len(entry.results) == metrics


def _outputs_lost(entry: Entry, outputs: Sequence[Path]) -> bool:
    """Whether an image's label map or overlay is not there as it was written."""
    return entry.skipped is None and entry.outputs != [checksum_of([path]) for path in outputs]
