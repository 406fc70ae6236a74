"""Runs in a work dir: a folder each, its journal, and which one ``--resume`` continues.

work_dir/record.json                       the last run's record
work_dir/<time of the first start>/        the run's folder
    record.json                            once it is done
    journal/run.json                       what the result depends on
    journal/<start>-rank<N>.jsonl          finished images (see itaclip.journal)
    journal/lock                           held while an evaluation writes there
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import InputError
from .distributed import Processes
from .identity import differences
from .journal import Entry, JournalFile, NotKeptError, file_checksum, read_journal, write_through
from .selection import Selection, partial_reasons

JOURNAL, HEADER = "journal", "run.json"
_FORMAT = 1
_MAX_NAMED = 3  # files named in one message


@dataclass
class Run:
    """An evaluation under way: what is done, and where what comes is kept.

    Attributes:
        folder: the run's folder.
        start: name of this start, such as ``20260301_101500``.
        selection: the images to evaluate.
        processes: who evaluates.
        entries: finished images by index: before this start those of all processes, later this
            process's own as well.
        notes: sentences for the log.
    """

    folder: Path
    start: str
    selection: Selection
    processes: Processes
    entries: dict[int, Entry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    own: list[Entry] = field(default_factory=list)
    _lock: FileLock | None = None
    _unkept: bool = False

    def __post_init__(self) -> None:
        self.file = JournalFile(self.folder / JOURNAL, self.start, self.processes.rank)
        self.earlier = len(self.entries)
        """Images that were finished before this start."""

    def share(self) -> list[int]:
        """The images that this process has to do: every N-th of those not finished."""
        left = [index for index in self.selection.indices if index not in self.entries]
        return left[self.processes.rank :: self.processes.size]

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

    def collect(self) -> list[Entry] | None:
        """All entries in data set order on rank 0, None elsewhere; waits for all processes."""
        parts = self.processes.gather(self.own)
        if not self.processes.main:
            return None
        for part in parts:
            for entry in part:
                self.entries.setdefault(entry.index, entry)
        return [self.entries[index] for index in self.selection.indices]

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
    processes: Processes,
    paths: Mapping[int, Sequence[str]],
    resume: bool = False,
) -> Run:
    """A new run, or with ``resume`` the latest one in the work dir that has the same identity.

    Args:
        work_dir: where runs lie.
        log_dir: the folder of this start, named by its time; a new run takes it.
        identity: all that the result depends on, see :mod:`itaclip.evaluation.identity`.
        selection: the images to evaluate.
        processes: who evaluates; all call this.
        paths: image and mask of every chosen index.
        resume: continue.

    Raises:
        InputError: an unfinished run has another identity, its data changed since, or an
            evaluation is writing there; processes that differ in weights, texts or data.
    """
    _check_agreement(identity, processes)
    lock: list[FileLock] = []

    def choose() -> tuple[str, list[str]]:
        name, notes = _choose(work_dir, log_dir, identity, resume)
        lock.append(_locked(work_dir / name / JOURNAL))
        return name, notes

    name, notes = processes.from_main(choose)
    folder = work_dir / name
    journal = folder / JOURNAL
    with processes.main_first():
        if not (journal / HEADER).exists():
            header = {"format": _FORMAT, "identity": identity}
            text = json.dumps(header, indent=1, ensure_ascii=False)
            write_through(journal / HEADER, (text + "\n").encode())
    found, damaged = read_journal(journal) if processes.leader else ({}, [])
    entries: dict[int, Entry] = {}
    for part, sentences in processes.gather((found, damaged)):
        entries.update(part)  # the same images, where machines share the work dir
        notes += [sentence for sentence in sentences if sentence not in notes]
    entries = {index: entries[index] for index in selection.indices if index in entries}
    _check_files(entries, paths, processes, folder)
    if entries:
        notes.append(f"Continuing {folder}: {len(entries)} of {len(selection.indices)} images done")
    run = Run(folder, log_dir.name, selection, processes, entries, notes)
    run._lock = lock[0] if lock else None
    return run


def _check_agreement(identity: Mapping[str, Any], processes: Processes) -> None:
    """All processes must see the same weights, texts, data and code, and compute alike."""
    everyone = processes.gather((processes.host, identity))
    for rank, (host, other) in enumerate(everyone):
        if (clause := differences(everyone[0][1], other)) is not None:
            raise InputError(
                f"process {rank} on {host} would evaluate something else than process 0 on "
                f"{everyone[0][0]}: {clause}; give all machines the same files and devices."
            )


def _choose(
    work_dir: Path, log_dir: Path, identity: Mapping[str, Any], resume: bool
) -> tuple[str, list[str]]:
    """The name of the run's folder, and what to say about it."""
    known = _runs(work_dir)
    unfinished = [
        (path, old)
        for path, old in known
        if not (path / "record.json").exists() and any((path / JOURNAL).glob("*.jsonl"))
    ]
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
        return _new(log_dir), [f"--resume: nothing to continue in {work_dir}; starting anew"]
    notes = []
    for path, _ in unfinished[:1]:
        done = len(read_journal(path / JOURNAL)[0])
        notes.append(
            f"{path} holds an unfinished evaluation with {done} finished images, which is left as "
            "it is; this run starts anew (--resume would have continued it)."
        )
    return _new(log_dir), notes


def _runs(work_dir: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Runs with a journal, the latest first, and their identities."""
    found = []
    for header in work_dir.glob(f"*/{JOURNAL}/{HEADER}"):
        try:
            content = json.loads(header.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("format") == _FORMAT:
            found.append((header.parent.parent, content["identity"]))
    return sorted(found, key=lambda run: run[0].name, reverse=True)


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


def tidy(folders: Iterable[Path]) -> None:
    """Removes what a killed process left half-written in a run's folders."""
    for folder in folders:
        for path in folder.rglob(".*.part"):
            path.unlink(missing_ok=True)


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


def _check_files(
    entries: Mapping[int, Entry],
    paths: Mapping[int, Sequence[str]],
    processes: Processes,
    folder: Path,
) -> None:
    """Finished images must be what they were; each process looks at its share of them."""
    mine = list(entries.values())[processes.rank :: processes.size]
    changed = [entry.path for entry in mine if entry.files != file_checksum(paths[entry.index])]
    everything = [path for part in processes.gather(changed) for path in part]
    if everything:
        raise InputError(
            f"--resume: image or mask changed after it was evaluated in {folder}: "
            f"{', '.join(everything[:_MAX_NAMED])}"
            f"{f' and {len(everything) - _MAX_NAMED} more' * (len(everything) > _MAX_NAMED)}; put "
            "the data back, or leave --resume out to start anew."
        )
