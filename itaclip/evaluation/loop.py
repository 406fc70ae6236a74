"""The test loop of eval.py: every chosen image once, kept as soon as it is done.

mmengine's own loop gives processes equal shares by repeating images, and keeps all results in
memory. Here shares may be uneven, each image's result goes into the run's journal, and the metrics
get all results in data set order, so that sums are the same bit by bit whoever computed the parts.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import get_rank, get_world_size
from mmengine.evaluator import Evaluator
from mmengine.registry import DATA_SAMPLERS, LOOPS
from mmengine.runner import Runner, TestLoop
from torch import nn
from torch.utils.data import Sampler

from ..data.guard import SKIPPED
from ..errors import InputError
from ..runtime.outputs import check_outputs
from .distributed import from_rank_zero, gather, rank_zero_first, total
from .journal import Entry, checksum_of
from .published import ORACLE, uses_oracle
from .runs import Run
from .signals import check_stop

_LOG_IMAGES, _LOG_SECONDS = 10, 60.0  # the score so far is logged after so many of either
_MEET_IMAGES = 4  # processes exchange it after so many images of each


class EvaluationRunner(Runner):
    """mmengine's Runner for a frozen model, of which every process has its own."""

    def build_model(self, model: Any) -> Any:
        with rank_zero_first():  # it fetches weights and encodes texts
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        distributed, self._distributed = self._distributed, False  # torch's DDP wants gradients
        try:
            return super().wrap_model(model_wrapper_cfg, model)
        finally:
            self._distributed = distributed


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

    Metrics and hooks that write files have two methods: ``plan(images, chosen, folder)`` with the
    images of the whole data set, the chosen ones and the run's folder; and ``outputs(image)``, the
    files that they will write for an image. ``plan`` returns all files that they may write.

    Attributes:
        evaluation: the run; set by :meth:`begin`.
    """

    def __init__(self, runner: Runner, dataloader: Any, evaluator: Any, fp16: bool = False) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        meta = self.evaluator.dataset_meta
        self.evaluator = PerImageEvaluator(self.evaluator.metrics)
        self.evaluator.dataset_meta = meta
        self.evaluation: Run | None = None

    def paths(self, index: int) -> list[str]:
        """Image and, where there is one, mask of a position in the data set."""
        info = self.dataloader.dataset.get_data_info(index)
        return [str(info[key]) for key in ("img_path", "seg_map_path") if info.get(key)]

    @property
    def _writers(self) -> list[Any]:
        everybody = [*self.evaluator.metrics, *self.runner.hooks]
        return [writer for writer in everybody if hasattr(writer, "plan")]

    def plan(self, chosen: Sequence[int], folder: Path) -> None:
        """Tells who writes files what will come; nothing is written yet.

        Raises:
            InputError: a result would replace an input or another result.
        """
        paths = [self.paths(index) for index in range(len(self.dataloader.dataset))]
        images = list(dict.fromkeys(image for image, *_ in paths))
        picked = list(dict.fromkeys(paths[index][0] for index in chosen))
        targets = [path for writer in self._writers for path in writer.plan(images, picked, folder)]
        check_outputs(targets, images, [mask for _, *masks in paths for mask in masks])

    def outputs(self, index: int) -> list[Path]:
        """The files that an image's evaluation writes."""
        image = self.paths(index)[0]
        return [path for writer in self._writers for path in writer.outputs(image)]

    def begin(self, run: Run) -> None:
        """Takes over what is done, and this process's share of the rest."""
        self.evaluation = run
        self.dataloader.sampler.indices = run.share
        classes = len(self.dataloader.dataset.metainfo["classes"])
        self._score = ScoreSoFar(classes, run.entries.values() if get_rank() == 0 else ())

    def run(self) -> dict[str, Any]:
        """Evaluates; returns the metrics, whose names begin with ``partial/`` where images lack,
        and with ``oracle/`` where the model reads the ground truth.
        """
        run, runner = self.evaluation, self.runner
        runner.call_hook("before_test")
        runner.call_hook("before_test_epoch")
        runner.model.eval()
        self._say_notes()
        self._begun = self._last = self._logged = time.perf_counter()
        self._met, left = 0, len(run.left)
        self._batches = iter(_chunks(self.dataloader.sampler.indices, self.dataloader.batch_size))
        meetings = -(-left // get_world_size()) // _MEET_IMAGES  # of the largest share
        for number, batch in enumerate(self.dataloader):
            self.run_iter(number, batch)
            self._meet(min(meetings, len(run.own) // _MEET_IMAGES))
        self._meet(meetings)
        run.file.close()
        entries = run.collect()
        self._check_outputs()
        metrics = from_rank_zero(lambda: self._metrics(entries))
        runner.call_hook("after_test_epoch", metrics=metrics)
        runner.call_hook("after_test")
        return metrics

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """One batch: predict, measure, draw; then, when all is written, into the journal."""
        skipped = data_batch.pop(SKIPPED, None) or ()
        samples = self._match(next(self._batches), skipped)
        self.evaluator.taken.clear()
        if any(reason is None for _, _, reason in samples):
            super().run_iter(idx, data_batch)
        now = time.perf_counter()
        results = iter(self.evaluator.taken)
        for index, path, reason in samples:
            done = reason is None
            entry = Entry(
                index=index,
                path=path,
                seconds=(now - self._last) / len(samples),
                elapsed=now - self._begun,
                files=checksum_of(self.paths(index)),
                outputs=[checksum_of([path]) for path in self.outputs(index)] if done else [],
                results=next(results) if done else None,
                skipped=reason,
            )
            self.evaluation.add(entry)
            self._score.add(entry)
        self._last = now
        self._say_notes()
        self._say_score(now)
        check_stop()

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

    def _check_outputs(self) -> None:
        """What this process wrote must be there: somebody may have tidied up meanwhile."""
        own = [entry for entry in self.evaluation.own if entry.skipped is None]
        lost = [path for e in own for path in self.outputs(e.index) if not path.is_file()]
        if lost := [path for part in gather(lost) for path in part]:
            raise InputError(
                f"{lost[0]}: was removed while the evaluation ran, as were {len(lost) - 1} more of "
                "its results; give the same command with --resume, which makes them again."
            )

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

    def _meet(self, times: int) -> None:
        """Lets all processes exchange their scores, up to so many times since the beginning.

        So nobody waits for longer than a few images take, and a lost process is noticed by then.
        """
        while self._met < times:
            self._score.others = total(self._score.own) - self._score.own
            self._met += 1

    def _say_notes(self) -> None:
        while self.evaluation.notes:
            self.runner.logger.info(self.evaluation.notes.pop(0))

    def _say_score(self, now: float) -> None:
        """The score so far, of all processes, every few images or once a minute."""
        count = len(self.evaluation.own)
        if count % _LOG_IMAGES and now - self._logged < _LOG_SECONDS:
            return
        self._logged = now
        images, miou = self._score.so_far()
        of = len(self.evaluation.selection.indices)
        if get_rank() == 0 and miou is not None and images < of:
            self.runner.logger.info(f"mIoU so far: {miou:.2f} ({images} of {of} images: partial)")


class ScoreSoFar:
    """Running sums: images, intersection and union (C,) of each class; (1 + 2C,) in all.

    Attributes:
        own: of this process.
        others: of the other processes when they last met.
    """

    def __init__(self, classes: int, entries: Any = ()) -> None:
        self.own, self.others = np.zeros((2, 1 + 2 * classes))
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        self.own[0] += 1
        areas = entry.areas
        if areas is not None and 2 * len(areas[0]) + 1 == len(self.own):
            self.own[1:] += np.concatenate([areas[0].numpy(), areas[1].numpy()])

    def so_far(self) -> tuple[int, float | None]:
        """Images, and mIoU in percent or None."""
        sums = self.own + self.others
        intersection, union = np.split(sums[1:], 2)
        known = union > 0
        miou = 100 * float(np.mean(intersection[known] / union[known])) if known.any() else None
        return int(sums[0]), miou


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for first in range(0, len(indices), size):
        yield indices[first : first + size]
