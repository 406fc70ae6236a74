"""The test loop of eval.py: every chosen image once, kept as soon as it is done.

mmengine's own loop gives processes equal shares by repeating images, and keeps all results in
memory. Here shares may be uneven, each image's result goes into the run's journal, and the metrics
get all results in data set order, so that sums are the same bit by bit whoever computed the parts.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import Evaluator
from mmengine.registry import DATA_SAMPLERS, LOOPS
from mmengine.runner import Runner, TestLoop
from torch.utils.data import Sampler

from ..data.guard import SKIPPED
from ..errors import InputError
from .distributed import main_first
from .journal import Entry, file_checksum
from .published import ORACLE, uses_oracle
from .runs import Run

_LOG_IMAGES, _LOG_SECONDS = 10, 60.0  # the score so far is logged after so many of either


class EvaluationRunner(Runner):
    """mmengine's Runner; rank 0 builds the model first: it fetches weights and encodes texts."""

    def build_model(self, model: Any) -> Any:
        with main_first():
            return super().build_model(model)


@DATA_SAMPLERS.register_module()
class ShareSampler(Sampler):
    """The images that are left for this process, in data set order; see :class:`Run`."""

    def __init__(self, dataset: Any, seed: int | None = None) -> None:
        self.indices: list[int] = list(range(len(dataset)))

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class PerImageEvaluator(Evaluator):
    """Gives the metrics one image at a time, and takes what they keep of it out of them."""

    def __init__(self, metrics: Sequence[Any]) -> None:
        super().__init__(metrics)
        self.taken: list[list[list[Any]]] = []

    def process(self, data_samples: Sequence[Any], data_batch: Any = None) -> None:
        count = len(data_samples)
        for number, sample in enumerate(data_samples):
            super().process([sample], _part(data_batch, number, count))
            self.taken.append([list(metric.results) for metric in self.metrics])
            for metric in self.metrics:
                metric.results.clear()

    def compute(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """The metrics' figures from everything they kept, in the order of the entries."""
        figures: dict[str, Any] = {}
        for number, metric in enumerate(self.metrics):
            kept = [
                result
                for entry in entries
                if entry.results is not None
                for result in entry.results[number]
            ]
            for key, value in metric.compute_metrics(kept).items():
                key = f"{metric.prefix}/{key}" if metric.prefix else key
                if key in figures:
                    raise InputError(
                        f"test_evaluator: two metrics give {key!r}; give them different prefixes."
                    )
                figures[key] = value
        return figures


def _part(batch: Any, number: int, count: int) -> Any:
    """One image's part of a collated batch."""
    if not isinstance(batch, dict):
        return batch
    return {
        key: value[number : number + 1]
        if isinstance(value, list | tuple) and len(value) == count
        else value
        for key, value in batch.items()
    }


@LOOPS.register_module()
class EvaluationLoop(TestLoop):
    """mmengine's test loop over what a :class:`Run` has left to do.

    Attributes:
        evaluation: the run; set by :meth:`begin`.
        batch_indices: data set positions of the present batch's samples, for hooks.
    """

    def __init__(self, runner: Runner, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        meta = self.evaluator.dataset_meta
        self.evaluator = PerImageEvaluator(self.evaluator.metrics)
        self.evaluator.dataset_meta = meta
        self.batch_indices: list[int] = []
        self.evaluation: Run | None = None

    def paths(self, index: int) -> list[str]:
        """Image and, where there is one, mask of a position in the data set."""
        info = self.dataloader.dataset.get_data_info(index)
        return [str(info[key]) for key in ("img_path", "seg_map_path") if info.get(key)]

    def begin(self, run: Run) -> None:
        """Takes over what is done, and this process's share of the rest."""
        self.evaluation = run
        self.dataloader.sampler.indices = run.share()
        classes = len(self.dataloader.dataset.metainfo["classes"])
        self._score = ScoreSoFar(classes, run.entries.values() if run.processes.main else ())

    def run(self) -> dict[str, Any]:
        """Evaluates; returns the metrics, whose names begin with ``partial/`` where images lack,
        and with ``oracle/`` where the model reads the ground truth."""
        run, runner = self.evaluation, self.runner
        runner.call_hook("before_test")
        runner.call_hook("before_test_epoch")
        runner.model.eval()
        self._say_notes()
        self._begun = self._last = self._logged = time.perf_counter()
        self._batches = iter(_chunks(self.dataloader.sampler.indices, self.dataloader.batch_size))
        for number, batch in enumerate(self.dataloader):
            self.run_iter(number, batch)
        run.file.close()
        run.processes.publish(self._score.dump())
        entries = run.collect()
        metrics = run.processes.from_main(lambda: self._metrics(entries))
        runner.call_hook("after_test_epoch", metrics=metrics)
        runner.call_hook("after_test")
        return metrics

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """One batch: predict, measure, draw; then, when all is written, into the journal."""
        skipped = data_batch.pop(SKIPPED, None) or ()
        samples = self._match(next(self._batches), skipped)
        self.batch_indices = [index for index, _, reason in samples if reason is None]
        self.evaluator.taken.clear()
        if self.batch_indices:
            super().run_iter(idx, data_batch)
        now = time.perf_counter()
        results = iter(self.evaluator.taken)
        for index, path, reason in samples:
            entry = Entry(
                index=index,
                path=path,
                seconds=(now - self._last) / len(samples),
                elapsed=now - self._begun,
                files=file_checksum(self.paths(index)),
                results=next(results) if reason is None else None,
                skipped=reason,
            )
            self.evaluation.add(entry)
            self._score.add(entry)
        self._last = now
        self._say_notes()
        self._say_score(now)
        self.evaluation.processes.check()

    def _match(
        self, indices: Sequence[int], skipped: Sequence[Any]
    ) -> list[tuple[int, str, str | None]]:
        """(index, image, why it was left out or None) of a batch, in its order."""
        reasons = {str(sample.image): str(sample.reason) for sample in skipped}
        matched = []
        for index in indices:
            path = self.paths(index)[0]
            matched.append((index, path, reasons.get(path)))
        return matched

    def _metrics(self, entries: Sequence[Entry]) -> dict[str, Any]:
        """On rank 0: the figures, announced as partial or as an oracle's where they are."""
        run = self.evaluation
        reasons = run.partial_reasons
        if not any(entry.results is not None for entry in entries):
            raise InputError(
                f"no image could be evaluated: all {len(entries)} were left out, the first since "
                f"{entries[0].skipped}"
            )
        if reasons:
            self.runner.logger.info(f"PARTIAL RESULT, not comparable: {'; '.join(reasons)}")
        oracle = uses_oracle(self.runner.cfg.get("model"))
        if oracle:
            self.runner.logger.info(f"ORACLE RESULT, not comparable: {ORACLE}")
        kind = "partial/" * bool(reasons) + "oracle/" * oracle
        return {kind + key: value for key, value in self.evaluator.compute(entries).items()}

    # ---- log ------------------------------------------------------------------------------------

    def _say_notes(self) -> None:
        while self.evaluation.notes:
            self.runner.logger.info(self.evaluation.notes.pop(0))

    def _say_score(self, now: float) -> None:
        """The score so far, of all processes, every few images or once a minute."""
        count = len(self.evaluation.own)
        if count % _LOG_IMAGES and now - self._logged < _LOG_SECONDS:
            return
        self._logged = now
        if not self.evaluation.processes.main:
            self.evaluation.processes.publish(self._score.dump())
            return
        images, miou = self._score.total(self.evaluation.processes.published())
        of = len(self.evaluation.selection.indices)
        if miou is not None and images < of:
            self.runner.logger.info(f"mIoU so far: {miou:.2f} ({images} of {of} images: partial)")


class ScoreSoFar:
    """Running sums of intersection and union (C,) and a number of images."""

    def __init__(self, classes: int, entries: Any = ()) -> None:
        self._sums = np.zeros(1 + 2 * classes)
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        self._sums[0] += 1
        areas = entry.areas
        if areas is not None and 2 * len(areas[0]) + 1 == len(self._sums):
            self._sums[1:] += np.concatenate([areas[0].numpy(), areas[1].numpy()])

    def dump(self) -> bytes:
        return self._sums.tobytes()

    def total(self, others: Sequence[bytes]) -> tuple[int, float | None]:
        """Images, and mIoU in percent or None, of these and others' sums."""
        sums = self._sums + sum(np.frombuffer(other) for other in others)
        intersection, union = np.split(sums[1:], 2)
        known = union > 0
        miou = 100 * float(np.mean(intersection[known] / union[known])) if known.any() else None
        return int(sums[0]), miou


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(indices), size):
        yield indices[first : first + size]
