"""Ablations: figures equal eval.py's, sharing changes nothing, stopped runs go on."""

import json
import sys

import pytest
import torch
from conftest import PROJECT
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmseg.registry import TRANSFORMS

sys.path.insert(0, str(PROJECT / "tools"))
import ablate

from itaclip import InputError
from itaclip.evaluation.arguments import parse_arguments
from itaclip.evaluation.command import evaluate, load_config
from itaclip.evaluation.grid import STUDIES, Store, Study, evaluate_plan, make_plan
from itaclip.evaluation.grid.plan import apply_changes
from itaclip.evaluation.grid.report import agreements
from itaclip.evaluation.grid.studies import Setting, backbone_studies, blocks
from itaclip.evaluation.published import PUBLISHED
from itaclip.runtime.tool import run_tool


@TRANSFORMS.register_module()
class InterruptAt(BaseTransform):
    """Stops the run at a picture, as Ctrl-C does."""

    picture = None

    def transform(self, results):
        if self.picture is not None and self.picture in results["img_path"]:
            raise KeyboardInterrupt
        return results


@pytest.fixture(scope="module")
def storybook(tmp_path_factory):
    return tmp_path_factory.mktemp("storybook")


@pytest.fixture
def config_path(tmp_path, storybook):
    config = Config.fromfile(PROJECT / "configs/cfg_storybook.py")
    dataset = config.test_dataloader.dataset
    dataset.update(data_root=str(storybook), split="val", indices=3)
    dataset.pipeline = [dict(type="InterruptAt"), *dataset.pipeline]
    config.test_dataloader.update(num_workers=0, persistent_workers=False)
    config.model.test_cfg.stride = (112, 112)
    names = tmp_path / "names.txt"
    names.write_text((PROJECT / config.model.name_path).read_text())
    config.model.name_path = str(names)
    path = tmp_path / "small.py"
    config.dump(path)
    return path


def plan_of(path, studies, **options):
    return make_plan(
        load_config(parse_arguments(["--config", str(path)])), path, studies, **options
    )


def run(path, *options):
    out = path.parent / "out"
    ablate.main(["--config", str(path), "--out", str(out), "--no-plots", *options])
    return json.loads((out / "ablations.json").read_text())


# ---- figures ------------------------------------------------------------------------------------


def test_figures_are_those_of_eval(config_path):
    data = run(config_path, "--study", "feed_forward", "weights")
    options = ["--work-dir", str(config_path.parent / "work"), "--cfg-options"]
    cells = {
        ("feed_forward", "kept", ""): ["model.attention={'recipe':'itaclip','feed_forward':True}"],
        ("feed_forward", "removed", ""): ["model.attention=itaclip"],
        ("weights", "0.6", "0.2"): [
            "model.image_engineering_weight=0.6",
            "model.aux_text_weight=0.2",
            "model.pamr=None",
        ],
    }
    seen = set()
    for (study, row, column), changes in cells.items():
        config = Config.fromfile(config_path)
        if "{" in changes[0]:  # a dictionary has no form on mmengine's command line
            config.model.attention = dict(recipe="itaclip", feed_forward=True)
            changes = ["model.precision=auto"]
        path = config_path.with_name("cell.py")
        config.dump(path)
        metrics = evaluate(["--config", str(path), *options, *changes])
        figures = data["studies"][study]["cells"][row][column]["figures"]
        for key in ("mIoU", "aAcc", "mAcc"):
            assert figures[key] == round(float(metrics[key]), 2), (study, row, key)
        seen.add(figures["mIoU"])
        assert 8 < figures["things"] < figures["mIoU"] < figures["stuff"] < 100
    assert len(seen) == len(cells), "the changes changed nothing"


def test_sharing_changes_no_pixel_and_saves_passes(config_path, tmp_path):
    """Every kind of sharing: recipes, methods that read words, λ, α, refinement, stride."""
    recipes = {name: {"model.attention": name} for name in ("clip", "itaclip", "scclip", "resclip")}
    studies = {
        "recipes": Study("Recipes", recipes, {"α": {}, "0": {"model.aux_text_weight": 0.0}}),
        "pamr": STUDIES["pamr"],
        "λ": Study("λ", {str(x): {"model.image_engineering_weight": x} for x in (0.25, 0.75, 1.0)}),
        "stride": Study("Stride", {"56": {"model.test_cfg.stride": (56, 56)}}),
    }
    areas, done = [], []
    for share in (True, False):
        store = Store(tmp_path / str(share))
        plan = plan_of(config_path, studies, limit=2)
        done.append(evaluate_plan(plan, store, share)[1])
        areas.append({key: store.load(row) for key, row in plan.rows.items()})
    assert areas[0].keys() == areas[1].keys()
    for key, own in areas[0].items():
        assert own.keys() == areas[1][key].keys() == {0, 1}
        for picture, one in own.items():
            other = areas[1][key][picture]
            assert torch.equal(one.areas, other.areas), plan.rows[key].settings["model"]
    # 14 cells; 'itaclip' with α and 'PAMR with' are one setting. Blocks: one view, five views,
    # λ = 1 (three views), the other stride. Last blocks: four recipes, one of them reads words.
    assert done[0] == {"blocks": 4 * 2, "last_block": 8 * 2, "segmented": 13 * 2, "decoded": 2}
    assert done[1] == dict.fromkeys(done[1], 14 * 2)


def test_equal_settings_are_evaluated_once(config_path):
    same = {
        "name": {"model.attention": "itaclip"},
        "written out": {"model.attention": dict(recipe="itaclip", middle_layers=[7, 8, 10])},
        "default": {"model.window_batch": None},
    }
    plan = plan_of(config_path, {"same": Study("Same", same)})
    assert len(plan.cells) == 3
    assert len(plan.rows) == 1


# ---- stored results -----------------------------------------------------------------------------


def test_an_interrupted_run_goes_on(config_path, monkeypatch, capsys):
    arguments = [config_path, "--study", "pamr", "terms"]
    whole = run(*arguments)
    for file in (config_path.parent / "out/rows").iterdir():
        file.unlink()
    monkeypatch.setattr(InterruptAt, "picture", "0002")
    with pytest.raises(KeyboardInterrupt):
        run(*arguments)
    rows = [f.read_text().splitlines() for f in (config_path.parent / "out/rows").iterdir()]
    assert {len(lines) - 1 for lines in rows} == {2}
    monkeypatch.setattr(InterruptAt, "picture", "0001")  # it must not be needed again
    capsys.readouterr()
    again = run(*arguments)
    assert "now: 8 segmentations of pictures from 1 passes" in capsys.readouterr().out
    for name in ("pamr", "terms"):
        for row, cell in whole["studies"][name]["cells"].items():
            figures = again["studies"][name]["cells"][row][""]["figures"]
            assert figures | {"seconds": 0} == cell[""]["figures"] | {"seconds": 0}
    run(*arguments)
    assert "now: 0 segmentations of pictures from 0 passes" in capsys.readouterr().out


def test_a_line_that_a_kill_cut_off_does_not_count(config_path, capsys):
    whole = run(config_path, "--study", "pamr")
    (file, _) = sorted((config_path.parent / "out/rows").iterdir())
    file.write_text(file.read_text()[:-9])
    capsys.readouterr()
    again = run(config_path, "--study", "pamr")
    assert "now: 1 segmentations of pictures" in capsys.readouterr().out
    for row, cell in whole["studies"]["pamr"]["cells"].items():
        figures = again["studies"]["pamr"]["cells"][row][""]["figures"]
        assert figures["mIoU"] == cell[""]["figures"]["mIoU"]


def test_changed_inputs_are_noticed(config_path, capsys):
    run(config_path, "--study", "pamr", "--limit", "1")
    names = config_path.with_name("names.txt")
    names.write_text(names.read_text().rstrip() + ", tomcat\n")
    run(config_path, "--study", "pamr", "--limit", "1")
    captured = capsys.readouterr()
    assert captured.err.count("made with other texts; evaluated anew") == 2
    (file, _) = sorted((config_path.parent / "out/rows").iterdir())
    file.write_text(file.read_text().replace('"areas": "', '"areas": "damaged'))
    with pytest.raises(InputError, match=f"{file.name}: the stored result cannot be read.*remove"):
        run(config_path, "--study", "pamr", "--limit", "1")


def test_partial_results_say_so(config_path, capsys):
    data = run(config_path, "--study", "pamr", "--limit", "1")
    assert not data["complete"]
    label = "First 1 of 3 pictures: not comparable."
    assert label in capsys.readouterr().out
    assert label in (config_path.parent / "out/README.md").read_text()
    assert run(config_path, "--study", "pamr")["complete"]
    assert "not comparable" not in (config_path.parent / "out/README.md").read_text()


def test_the_readme_keeps_what_was_written_by_hand(config_path):
    out = config_path.parent / "out"
    run(config_path, "--study", "pamr", "--limit", "1")
    readme = out / "README.md"
    readme.write_text("Own words.\n" + readme.read_text() + "More.\n")
    run(config_path, "--study", "pamr", "--limit", "2")
    text = readme.read_text()
    assert text.startswith("Own words.\n") and text.endswith("More.\n")
    assert text.count("First 2 of 3") == 1 and "First 1 of 3" not in text
    readme.write_text("Nothing else.")
    with pytest.raises(InputError, match="expected the lines"):
        run(config_path, "--study", "pamr", "--limit", "2")


def test_plots_are_written(config_path):
    out = config_path.parent / "out"
    ablate.main(["--config", str(config_path), "--out", str(out), "--study", "sigma", "modules",
                 "--limit", "1"])  # fmt: skip
    for name in ("sigma", "modules"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"]({name}.png)" in (out / "README.md").read_text()


# ---- studies ------------------------------------------------------------------------------------


def test_changes_replace_values_as_a_whole():
    settings = {"model": {"pamr": {"num_iter": 10}, "attention": "itaclip"},
                "test_dataloader": {"dataset": {"pipeline": [{"type": "A"}, {"type": "B"}]}},
                "test_evaluator": {}}  # fmt: skip
    changed = apply_changes(
        settings,
        {
            "model.pamr": {"dilations": (4,)},
            "model.attention.terms": ("qq",),
            "test_dataloader.dataset.pipeline.1": {"type": "C"},
        },
    )
    assert changed["model"] == {
        "pamr": {"dilations": (4,)},
        "attention": {"recipe": "itaclip", "terms": ("qq",)},
    }
    assert [step["type"] for step in changed["test_dataloader"]["dataset"]["pipeline"]] == [
        "A",
        "C",
    ]
    assert settings["model"]["attention"] == "itaclip"
    for key in ("model", "work_dir", "model.no.such", "test_dataloader.dataset.pipeline.2"):
        with pytest.raises(InputError, match=key):
            apply_changes(settings, {key: 1})


def test_blocks_belong_to_a_depth():
    assert blocks(7, 8, 10)(Setting({}, depth=12)) == (7, 8, 10)
    assert blocks(7, 8, 10)(Setting({}, depth=24)) == (14, 16, 20)


def test_published_figures_fit_their_studies():
    studies = STUDIES | backbone_studies(["ViT-B/16", "ViT-B/32", "ViT-L/14"])
    for name, study in studies.items():
        for series in study.published:
            assert series.figures.keys() <= study.rows.keys(), (name, series.source)
            for figures in series.figures.values():
                if isinstance(figures, tuple):
                    assert len(figures) == len(study.columns), (name, series.source)
    # Figures that other tables repeat.
    itaclip = {row.setting: row.miou for row in PUBLISHED if row.method == "ITACLIP"}
    for series in STUDIES["pamr"].published:
        assert series.figures == {
            "without": itaclip[""][series.data],
            "with": itaclip["PAMR"][series.data],
        }
    for series in STUDIES["feed_forward"].published:
        assert series.figures["removed"] == itaclip["PAMR"][series.data]
    (terms,) = STUDIES["terms"].published
    assert terms.figures["q-q + k-k"] == itaclip["PAMR"]["VOC21"]


def test_agreement_with_a_table():
    study = STUDIES["middle_layers"]
    here = dict(zip(study.rows, (1.0, 3.0, 2.0, 2.5, 4.0, 5.0), strict=True))
    cells = {row: {"": {"figures": {"mIoU": value}}} for row, value in here.items()}
    (found,) = agreements(study, cells)
    # Paper: 65.0, 65.4, 65.5, 65.5, 65.6, 65.5: 12 pairs differ; three stand otherwise here.
    assert (found.pairs, found.same) == (12, 9)
    assert (found.best, found.best_there) == ("7, 8, 9, 10", "7, 8, 10")


def test_a_study_of_ones_own(config_path):
    file = config_path.with_name("mine.json")
    rows = {str(scale): {"model.logit_scale": scale} for scale in (1, 40)}
    file.write_text(json.dumps({"scales": {"rows": rows, "base": {"model.pamr": None}}}))
    data = run(config_path, "--study-file", str(file), "--limit", "1")
    assert list(data["studies"]) == ["scales"]
    assert data["studies"]["scales"]["cells"]["1"][""]["changes"] == {
        "model.pamr": None,
        "model.logit_scale": 1,
    }
    file = file.with_suffix(".py")
    file.write_text(f"STUDIES = {{'again': {{'rows': {rows!r}}}}}")
    data = run(config_path, "--study-file", str(file), "--study", "again", "--limit", "1")
    assert list(data["studies"]) == ["again"]


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ({}, "expected a dictionary STUDIES"),
        ({"a": {"row": {}}}, "study 'a': expected a dictionary with 'rows'"),
        ({"a": {"rows": {"b": {}}, "colour": 1}}, "study 'a': unknown key 'colour'"),
        ({"a": {"rows": {"b": 3}}}, "study 'a', 'b': expected changes such as"),
        ({"a": {"rows": {"b": {"model.pam": 3}}}}, "model.pam: ITACLIPSegmentor has no such key"),
        ({"a": {"rows": {"b": {"model.logit_scale": -1}}}}, "study 'a', b: logit_scale: expected"),
        ({"a": {"rows": {"b": {"modle.pamr": 3}}}}, "study 'a', b: modle.pamr: expected a key"),
    ],
)
def test_bad_studies(study, expected, config_path, capsys):
    file = config_path.with_name("mine.json")
    file.write_text(json.dumps(study))
    assert run_tool(lambda: run(config_path, "--study-file", str(file))) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def test_studies_that_do_not_fit_are_left_out_or_refused(config_path):
    config = Config.fromfile(config_path)
    config.model.pop("auxiliary_text_path")
    config.model.test_cfg = dict(mode="whole")
    config.dump(config_path)
    plan = plan_of(config_path, STUDIES, may_fail=STUDIES, limit=1)
    assert plan.left_out.keys() == {"stride", "modules", "weights"}
    assert "segmented whole" in plan.left_out["stride"]
    assert "auxiliary_text_path" in plan.left_out["weights"]
    with pytest.raises(InputError, match="study 'stride', crop: images are segmented whole"):
        run(config_path, "--study", "stride")
    with pytest.raises(InputError, match=r"unknown study 'backbone' \(give --clip-model\)"):
        run(config_path, "--study", "backbone")


def test_backbones_of_other_depths(config_path, tmp_path):
    from conftest import random_clip

    from itaclip.clip_model import save_clip

    path = save_clip(random_clip(layers=6, resolution=48), tmp_path / "deep")
    data = run(config_path, "--clip-model", "storybook-tiny", str(path), "--limit", "1")
    cells = data["studies"]["backbone"]["cells"]
    assert list(cells) == ["storybook-tiny", str(path)]
    assert cells[str(path)][""]["changes"]["model.attention"]["middle_layers"] == "scaled"
    assert data["studies"]["naclip_backbone"]["cells"][str(path)][""]["figures"]["mIoU"] < 20
