"""Writing masks: whole or not at all, and worker processes that die."""

import os
from pathlib import Path

import mini_datasets as mini
import numpy as np
import pytest

from itaclip.data.preparation import convert
from itaclip.data.preparation.convert import (
    MaskJob,
    convert_masks,
    write_if_changed,
)
from itaclip.errors import InputError
from itaclip.runtime.files import write_whole


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_write_that_is_broken_off_leaves_the_old_file(tmp_path, monkeypatch, problem):
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")
    write = Path.write_bytes

    def half(self, data):
        write(self, data[: len(data) // 2])
        raise problem

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises((KeyboardInterrupt, InputError), match=r"|mask.png: .*No space"):
        write_whole(path, b"a longer text")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["mask.png"]


def test_an_unchanged_file_is_not_touched(tmp_path):
    path = tmp_path / "new/list.txt"
    assert write_if_changed(path, b"a\n")
    os.utime(path, (1, 1))
    assert not write_if_changed(path, b"a\n")
    assert path.stat().st_mtime == 1
    assert write_if_changed(path, b"b\n")


def labels_of(seed):
    return np.random.default_rng(seed).integers(0, 7, (5, 3)).astype(np.uint8)


def die(seed):
    os._exit(1)


def test_workers_change_nothing(tmp_path):
    summaries = []
    for workers in (1, 3):
        jobs = [MaskJob(f"{n}", n, tmp_path / f"{workers}/{n}.png") for n in range(40)]
        options = dict(workers=workers, force=False, title="")
        summaries.append(convert_masks(jobs, labels_of, **options))
    first, second = summaries
    assert first.digests == second.digests
    assert first.histogram.tolist() == second.histogram.tolist()
    assert first.total == first.written == second.written == 40
    for n in range(40):
        assert mini.read(tmp_path / f"3/{n}.png").tolist() == labels_of(n).tolist()


def test_a_killed_worker_is_reported():
    jobs = [MaskJob(f"{n}", n) for n in range(4)]
    with pytest.raises(InputError, match="smaller --workers"):
        convert_masks(jobs, die, workers=2, force=False, title="")


def test_workers_leave_ctrl_c_to_the_main_process(tmp_path):
    jobs = [MaskJob(f"{n}", n) for n in range(4)]
    summary = convert_masks(jobs, interrupt_self, workers=2, force=False, title="")
    assert summary.checked == 4


def interrupt_self(seed):
    os.kill(os.getpid(), convert.signal.SIGINT)
    return labels_of(seed)
