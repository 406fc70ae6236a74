"""Laws of result files: none replaces an input, and no two share a path."""

import itertools
import os
from pathlib import Path

import pytest

from itaclip.errors import InputError
from itaclip.runtime.outputs import check_outputs, plan_outputs

NAMES = ("a.jpg", "a.png", "a-2.png", "A.PNG", "b/a.jpg", "b/a-2.jpg", "c/b/a.jpg", "a.b.jpg")


@pytest.mark.parametrize("count", range(1, len(NAMES) + 1))
def test_every_input_has_a_result_of_its_own(count):
    for names in itertools.islice(itertools.permutations(NAMES, count), 500):
        targets = plan_outputs(names, "out")
        assert len({str(t).casefold() for t in targets}) == count
        assert targets == plan_outputs(names, "out")  # always the same
        assert all(t.parent.name == "out" and t.suffix == ".png" for t in targets)


def test_a_name_of_its_own_is_kept_and_others_are_numbered():
    found = [path.name for path in plan_outputs(["a.jpg", "x/a.png", "a-2.png", "b.c.jpg"], "o")]
    assert found == ["a.png", "a-3.png", "a-2.png", "b.c.png"]
    many = plan_outputs([f"{i}/rgb.png" for i in range(3000)], "o")
    assert len(set(many)) == 3000


def test_paths_below_a_root_are_kept(tmp_path):
    inputs = [tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg"]
    found = plan_outputs(inputs, "out", "_mask.png", root=tmp_path, number=False)
    assert [str(path) for path in found] == ["out/x/a_mask.png", "out/y/a_mask.png"]
    with pytest.raises(InputError, match="does not lie below the folder"):
        plan_outputs(inputs, "out", root=tmp_path / "x")
    inputs[1].parent.mkdir()
    os.symlink(os.devnull, inputs[1])  # pictures of a data set are often links to elsewhere
    assert plan_outputs(inputs, "out", root=tmp_path)[1] == Path("out/y/a.png")


def test_shared_names_are_refused_where_numbers_are_not_wanted():
    with pytest.raises(InputError, match=r"^b/A\.png: its result and that of a\.jpg would both be"):
        plan_outputs(["a.jpg", "b/A.png"], "out", number=False)


def test_no_result_replaces_an_input_through_any_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    os.symlink("in", "link")
    for folder in ("in", "link", "in/../in", tmp_path / "in"):
        for given in ("in/a.png", "link/a.png", tmp_path / "in" / "a.png", "in/A.PNG"):
            with pytest.raises(InputError, match="would replace the picture"):
                plan_outputs([given], folder)
    os.symlink("in/a.png", "b.png")  # a result named like a link to an input
    with pytest.raises(InputError, match="would replace"):
        check_outputs(["b.png"], ["in/a.png"])
    # The result of one input at the place of another.
    with pytest.raises(InputError, match="would replace"):
        plan_outputs(["in/a.jpg", "in/a.png"], "in")
    with pytest.raises(InputError, match="would replace the file"):
        plan_outputs(["a.jpg"], "out", kept=["out/a.png"])


def test_two_results_at_one_place_are_refused(tmp_path):
    os.symlink(".", tmp_path / "same")
    with pytest.raises(InputError, match="two results would go there"):
        check_outputs([tmp_path / "a.png", tmp_path / "same" / "a.png"])


def test_a_result_never_replaces_its_picture_through_the_api(tmp_path):
    import numpy as np
    from PIL import Image

    from itaclip.predict.segmentation import Segmentation

    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    labels, source = np.zeros((7, 9), np.int32), str(tmp_path / "a.png")
    result = Segmentation(np.zeros((7, 9, 3), np.uint8), labels, None, ("x",), ((1, 2, 3),), source)
    os.symlink("a.png", tmp_path / "b.png")
    for save in (result.save, result.save_mask):
        for name in ("a.png", "b.png", "A.PNG"):
            with pytest.raises(InputError, match="would replace the picture"):
                save(tmp_path / name)
        save(tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() == before
