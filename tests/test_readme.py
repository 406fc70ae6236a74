"""The README stays true: its files exist, its snippets run, CI runs its test command."""

import re
import shlex

import matplotlib
import pytest
from conftest import PROJECT
from PIL import Image

matplotlib.use("Agg")

README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (PROJECT / "docs").glob("*.md")}


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readme_is_short():
    assert len(README.split()) <= 900


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_what_a_page_names_exists(page):
    text, folder = (README, PROJECT) if page == "README.md" else (PAGES[page], PROJECT / "docs")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    folders = "configs|tools|datasets|benchmarks|tests|itaclip|aux_texts"
    if page == "mmseg.md":  # mmseg has tools of its own
        folders = folders.replace("tools|", "")
    named = set(re.findall(rf"(?<![\w/])((?:{folders})/[\w/]+\.(?:py|txt|md|npz))\b", text))
    assert links or page != "README.md"
    assert [link for link in links if not (folder / link).exists()] == []
    assert [path for path in sorted(named) if not (PROJECT / path).exists()] == []


def test_ci_runs_the_test_command():
    (command,) = re.findall(r"^pip install .* && pytest.*$", README, re.MULTILINE)
    assert command in "".join(blocks("bash"))
    script = (PROJECT / ".ci/run").read_text()
    assert "README.md" in script
    assert "pytest" in script


GUIDE = PAGES["your_own_images.md"]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder like the project's root, to write into; of its pictures, two small ones."""
    for name in ("configs", "aux_texts"):
        (tmp_path / name).symlink_to(PROJECT / name)
    (tmp_path / "docs/storybook_tiny").mkdir(parents=True)
    scene = Image.open(PROJECT / "docs/scene.png")
    scene.save(tmp_path / "docs/scene.png")
    scene.crop((0, 0, 120, 112)).save(tmp_path / "docs/storybook_tiny/scenes.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_commands(text):
    """Runs every ``itaclip`` line of a text's bash blocks; returns their number."""
    from itaclip.commands import main

    scripts = "".join(blocks("bash", text))
    commands = re.findall(r"^(?:python -m )?itaclip (.*)$", scripts, re.MULTILINE)
    for command in commands:
        main(shlex.split(command))
    return len(commands)


def test_the_three_lines_on_own_images(clone):
    (snippet,) = [b for b in blocks("python") if "itaclip.load" in b]
    scope = {}
    exec(snippet, scope)
    assert next(iter(scope["result"].areas())) == "sky"
    matplotlib.pyplot.close("all")


def test_the_commands_on_own_images(clone):
    section = README[README.index("## Your own pictures") : README.index("## Results")]
    assert run_commands(section) == 2
    assert {p.name for p in clone.iterdir() if p.is_file()} == {"result.png", "inside.jpg"}


def test_the_guide_to_own_images(clone, capsys):
    """Its Python, block by block, then its commands; the files that they name are there."""
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        exec(block, scope)
    matplotlib.pyplot.close("all")
    shown = [line for line in capsys.readouterr().out.splitlines() if "Segmentation(" in line]
    assert len(shown) == 3 + 1
    assert run_commands(GUIDE) == 7
    written = {p.name for p in clone.iterdir()}
    named = {"result.png", "labels.png", "areas.json", "attention.png", "scores.png"}
    assert named | {"scene_segmented.png", "segmented", "comparison.png"} <= written
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", GUIDE)
    assert [link for link in links if not (PROJECT / "docs" / link).exists()] == []


def test_the_snippet_of_the_configuration_is_accepted():
    from itaclip import ITACLIPSegmentor

    (snippet,) = blocks("python", PAGES["configuration.md"])
    scope = {}
    exec(snippet, scope)
    model = dict(scope["model"], clip_model="storybook-tiny")
    assert model.pop("type") == "ITACLIPSegmentor"
    model["test_cfg"] = dict(mode="slide", crop_size=(112, 112), stride=(28, 28))
    assert ITACLIPSegmentor(**model).vocabulary.num_classes == 21


def test_a_recipe_as_in_the_readme():
    from itaclip.recipes import RECIPES, LastBlock, resolve_recipe

    page = PAGES["recipes.md"]
    (snippet,) = [b for b in blocks("python", page) if b.startswith("RECIPES[")]
    recipes = dict(RECIPES)
    exec(snippet, {"RECIPES": recipes, "LastBlock": LastBlock})
    resolve_recipe(recipes["mine"], 12)
    table = page
    for name in RECIPES:
        suffix = "_" + name.split("_", 1)[1] if "_" in name else name
        assert f"`{name}`" in table or f"`{suffix}`" in table, name
