"""The table over recipes, on two pictures."""

import json
import sys

import pytest
from conftest import PROJECT

sys.path.insert(0, str(PROJECT / "tools"))
import compare_recipes
from mmengine.config import Config
from mmengine.runner import Runner

from itaclip import InputError
from itaclip.evaluation.arguments import parse_arguments
from itaclip.evaluation.command import load_config


@pytest.fixture
def small_config(tmp_path):
    config = Config.fromfile(PROJECT / "configs/cfg_storybook.py")
    config.test_dataloader.dataset.data_root = str(tmp_path / "storybook")
    config.test_dataloader.dataset.split = "val"
    config.test_dataloader.dataset.indices = 2
    config.model.test_cfg.stride = (112, 112)
    path = tmp_path / "small.py"
    config.dump(path)
    return path


def test_cells_equal_an_evaluation(small_config, tmp_path, monkeypatch, capsys):
    out = tmp_path / "table.json"
    arguments = ["--config", str(small_config), "--recipes", "clip", "itaclip", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["compare_recipes.py", *arguments])
    compare_recipes.main()
    results = json.loads(out.read_text())
    assert results["images"] == 2
    table = compare_recipes.render(results)
    assert table in capsys.readouterr().out
    assert table.count("\n") == 3
    cells = results["mIoU"]["itaclip"]
    assert len({cells[column] for column in cells}) > 1, "the modules change nothing"

    on = ["model.image_engineering_weight=0.75"]
    off = ["model.image_engineering_weight=None", "model.aux_text_weight=0.0"]
    runs = {"all": on, "+PAMR": off}
    for column, options in runs.items():
        options = ["--cfg-options", "model.attention=itaclip", *options]
        options += ["test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False"]
        command = ["--config", str(small_config), "--work-dir", str(tmp_path / "run"), *options]
        metrics = Runner.from_cfg(load_config(parse_arguments(command))).test()
        assert metrics["mIoU"] == pytest.approx(cells[column], abs=0.02)


def test_recipes_can_be_varied():
    assert compare_recipes.parse_recipe("naclip") == "naclip"
    varied = compare_recipes.parse_recipe("naclip(gaussian_std=3.0, terms=('qq',))")
    assert varied == dict(recipe="naclip", gaussian_std=3.0, terms=("qq",))
    for wrong in ("nclip", "naclip(", "naclip(3)", "naclip(a=3)(x=1)", "naclip(std=print())"):
        with pytest.raises(InputError, match="--recipes"):
            compare_recipes.parse_recipe(wrong)
