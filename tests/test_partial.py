"""Results of a part of a data set: chosen as asked, and labelled wherever their figures go."""

import json
import re
import runpy

import pytest
from conftest import PROJECT
from mmengine.registry import FUNCTIONS
from test_evaluation import folder, run  # noqa: F401  (a fixture)
from test_records import made_up

from itaclip import InputError
from itaclip.evaluation.loop import SKIPPED
from itaclip.evaluation.published import compare_with_paper, comparison_lines
from itaclip.evaluation.record import write_record
from itaclip.evaluation.selection import select


def test_selection():
    assert select(5).indices == (0, 1, 2, 3, 4)
    assert not select(5).partial
    assert select(5, limit="2").indices == (0, 1)
    assert select(5, limit="2").reason == "2 of 5 images were chosen (--limit 2)"
    assert not select(5, limit="9").partial, "all there are"
    assert select(70, indices="17, 3,40-42,41").indices == (3, 17, 40, 41, 42)
    assert not select(3, indices="0-2").partial


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(limit="0"), "--limit: expected a number of images from 1, but got '0'"),
        (dict(limit="x"), "--limit"),
        (dict(indices="1,,2"), "--indices: expected numbers and ranges like 3,17,40-60"),
        (dict(indices="-1"), "--indices"),
        (dict(indices="4-2"), "4-2 ends before it begins"),
        (dict(indices="1,5"), "there is no image 5; the data set has 5 images, numbered from 0"),
    ],
)
def test_selections_that_cannot_be(options, expected):
    with pytest.raises(InputError) as caught:
        select(5, **options)
    assert expected in str(caught.value)


def test_part_of_a_data_set(folder, capsys):  # noqa: F811
    """Image b alone: the IoU of class 0 is 1 of 2 pixels, that of class 1 is 3 of 4."""
    metrics = run("--indices", "1")
    assert metrics == {"partial/aAcc": 80.0, "partial/mIoU": 62.5, "partial/mAcc": 87.5}
    record = json.loads((folder / "work_dirs/cfg/record.json").read_text())
    assert record["partial"] == ["1 of 2 images were chosen (--indices 1)"]
    assert record["data"]["images_found"] == 2
    assert record["data"]["images_evaluated"] == 1
    assert record["results"]["mIoU"] == 62.5
    text = capsys.readouterr().out
    assert "62.50 mIoU over 2 of 3 classes, 1 images - PARTIAL RESULT" in text
    assert "NOT comparable" in text
    (log,) = (folder / "work_dirs/cfg").glob("*/*.log")
    lines = log.read_text().splitlines()
    table = next(number for number, line in enumerate(lines) if "per class results" in line)
    assert "PARTIAL RESULT, not comparable: 1 of 2 images were chosen" in lines[table - 1]
    unlabelled = [line for line in lines if re.search(r"(?<!partial/)mIoU: ", line)]
    assert [line for line in unlabelled if "mIoU so far" not in line] == []


def test_all_images_are_no_part(folder):  # noqa: F811
    assert run("--limit", "2")["mIoU"] == 56.25
    record = json.loads((folder / "work_dirs/cfg/record.json").read_text())
    assert record["partial"] == []


class Skipped:
    def __init__(self, image, reason):
        self.image, self.reason = image, reason


@FUNCTIONS.register_module(force=True)
def collate_without_a(samples):
    """What a loader does that leaves bad samples out: they are listed beside the batch."""
    kept = [sample for sample in samples if not sample["data_samples"].img_path.endswith("a.png")]
    batch = {key: [sample[key] for sample in kept] for key in ("inputs", "data_samples")}
    if len(kept) < len(samples):
        batch[SKIPPED] = [Skipped("data/images/a.png", "data/images/a.png: damaged.")]
    return batch


@pytest.mark.parametrize("batch_size", [1, 2])
def test_left_out_images_are_listed(folder, batch_size):  # noqa: F811
    config = folder / "cfg.py"
    text = config.read_text().replace("batch_size=1", f"batch_size={batch_size}")
    collate = 'num_workers=0, collate_fn=dict(type="collate_without_a"),'
    text = text.replace("num_workers=0,", collate)
    config.write_text(text)
    metrics = run()
    assert metrics["partial/mIoU"] == 62.5
    record = json.loads((folder / "work_dirs/cfg/record.json").read_text())
    assert record["partial"] == ["1 image was left out as unusable (--skip-bad)"]
    expected = {"path": "data/images/a.png", "reason": "data/images/a.png: damaged."}
    assert record["data"]["images_skipped"] == [expected]
    assert record["data"]["images_evaluated"] == 1
    assert run("--resume") == metrics


def test_nothing_but_bad_images(folder):  # noqa: F811
    text = (folder / "cfg.py").read_text()
    collate = 'num_workers=0, collate_fn=dict(type="collate_without_a"),'
    text = text.replace("num_workers=0,", collate)
    (folder / "cfg.py").write_text(text)
    with pytest.raises(InputError, match=r"no image could be evaluated: all 1 were left out"):
        run("--limit", "1")


def test_partial_results_never_enter_the_table(tmp_path, capsys):
    """Not even with the right number of images."""
    record = made_up("naclip/cfg_voc21.py", miou=99.0)
    record["partial"] = ["3 images were left out as unusable (--skip-bad)"]
    record["comparison"] = compare_with_paper(record).as_dict()
    write_record(tmp_path / "record.json", record)
    assert not record["comparison"]["comparable"]
    assert "PARTIAL RESULT" in "\n".join(comparison_lines(compare_with_paper(record), record))
    results = runpy.run_path(str(PROJECT / "tools" / "results.py"))
    results["main"]([str(tmp_path)])
    table, left_out = capsys.readouterr()
    assert "**99" not in table
    assert "it is a partial result: 3 images were left out as unusable" in left_out


def test_score_so_far(folder):  # noqa: F811
    """In the log while images are left, with their number; not after the last one."""
    import shutil

    for number in range(20):
        for kind in ("images", "masks"):
            shutil.copy(folder / f"data/{kind}/b.png", folder / f"data/{kind}/c{number:02d}.png")
        shutil.copy(folder / "predictions/b.png", folder / f"predictions/c{number:02d}.png")
    run()
    (log,) = (folder / "work_dirs/cfg").glob("*/*.log")
    found = re.findall(r"mIoU so far: (.*)", log.read_text())
    assert len(found) == 2
    assert found[0].endswith("(10 of 22 images: partial)")
    # Classes 0 and 1 of image a, of b and of eight copies of b.
    expected = 50 * ((2 + 9 * 1) / (4 + 9 * 2) + (2 + 9 * 3) / (4 + 9 * 4))
    assert float(found[0].split()[0]) == pytest.approx(expected, abs=0.01)
