"""The README stays true: its files exist, its snippets run, CI runs its test command."""

import re

import pytest
from conftest import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def blocks(language):
    return [text for found, text in BLOCKS if found == language]


def test_linked_files_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (PROJECT / link).exists()] == []


def test_named_scripts_and_configs_exist():
    folders = "configs|tools|datasets|benchmarks|tests"
    named = set(re.findall(rf"\b((?:{folders})/[\w/]+\.(?:py|txt))", README))
    assert len(named) > 8
    assert [path for path in sorted(named) if not (PROJECT / path).exists()] == []


def test_ci_runs_the_test_command():
    (command,) = re.findall(r"^pip install .* && pytest.*$", README, re.MULTILINE)
    assert command in "".join(blocks("bash"))
    script = (PROJECT / ".ci/run").read_text()
    assert "README.md" in script
    assert "pytest" in script


@pytest.mark.parametrize("snippet", [b for b in blocks("python") if "init_model" in b])
def test_the_snippet_on_own_images_runs(snippet, monkeypatch):
    monkeypatch.chdir(PROJECT)
    scope = {}
    exec(snippet, scope)
    result, model = scope["result"], scope["model"]
    height, width = result.pred_sem_seg.data.shape[1:]
    assert result.seg_logits.data.shape == (3, height, width)
    assert model.dataset_meta["classes"] == ("sky", "sea", "boat")


def test_the_snippet_of_the_configuration_is_accepted():
    from itaclip import ITACLIPSegmentor

    (snippet,) = [b for b in blocks("python") if "custom_imports" in b]
    scope = {}
    exec(snippet, scope)
    model = dict(scope["model"], clip_model="storybook-tiny")
    assert model.pop("type") == "ITACLIPSegmentor"
    model["test_cfg"] = dict(mode="slide", crop_size=(112, 112), stride=(28, 28))
    assert ITACLIPSegmentor(**model).vocabulary.num_classes == 21


def test_a_recipe_as_in_the_readme():
    from itaclip.recipes import RECIPES, LastBlock, resolve_recipe

    (snippet,) = [b for b in blocks("python") if b.startswith("RECIPES[")]
    recipes = dict(RECIPES)
    exec(snippet, {"RECIPES": recipes, "LastBlock": LastBlock})
    resolve_recipe(recipes["mine"], 12)
    table = README[README.index("| recipe | Σ softmax") :]
    for name in RECIPES:
        suffix = "_" + name.split("_", 1)[1] if "_" in name else name
        assert f"`{name}`" in table or f"`{suffix}`" in table, name
