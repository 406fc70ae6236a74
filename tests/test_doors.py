"""The doors: what they import, in which order, and what they say."""

import subprocess
import sys

import pytest
from conftest import PROJECT

import itaclip
from itaclip.commands import COMMANDS
from itaclip.runtime.files import PROJECT_ROOT, resolve_path

HEAVY = ("torch", "mmengine", "mmseg", "mmcv", "cv2", "matplotlib", "transformers", "ray", "scipy")
LOADED = f"print(sorted(set({HEAVY}) & set(sys.modules)))"


def door(*arguments):
    """Code that runs the program."""
    return (
        f"from itaclip.__main__ import main\ntry: main({list(arguments)})\nexcept SystemExit: pass"
    )


def python(code, **kwargs):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys\n{code}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        **kwargs,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_and_its_help_load_nothing_heavy():
    out = python(f"import itaclip\n{door('--help')}\n{LOADED}")
    assert out.endswith("[]")
    for command in COMMANDS:
        assert f"\n    {command}" in out


def test_a_single_picture_loads_neither_mmseg_nor_the_runner():
    out = python(
        "import itaclip\nmodel = itaclip.load('storybook-tiny', pamr=None)\n"
        "model.segment('docs/scene.png', 'sky; sea')\n"
        "heavy = ('mmseg', 'mmengine.runner', 'scipy', 'torch._dynamo')\n"
        "print([m for m in sys.modules if m.startswith(heavy)])"
    )
    assert out == "[]"


@pytest.mark.parametrize("order", ["import mmseg, itaclip", "import itaclip, mmseg"])
@pytest.mark.parametrize("first", ["DATASETS", "TRANSFORMS"])
def test_registered_whichever_package_comes_first(order, first):
    out = python(
        f"{order}\nfrom mmseg.registry import {first}, MODELS, HOOKS, METRICS\n"
        f"print({first}.get(dict(DATASETS='StorybookDataset', TRANSFORMS='LoadCheckedImage')"
        f"['{first}']).__name__, MODELS.get('ITACLIPSegmentor').__name__, "
        "HOOKS.get('OverlayHook').__name__, METRICS.get('SaveLabels').__name__)"
    )
    assert "ITACLIPSegmentor OverlayHook SaveLabels" in out


def test_doors_wait_passively_unless_the_user_says_otherwise():
    show = f"import os\n{door('--version')}\nprint(os.environ['OMP_WAIT_POLICY'])"
    assert python(show, env={}).endswith("PASSIVE")
    assert python(show, env={"OMP_WAIT_POLICY": "ACTIVE"}).endswith("ACTIVE")


def test_one_version():
    assert python(
        "import itaclip.__main__ as door\ntry: door.main(['--version'])\nexcept SystemExit: pass"
    ) == (f"itaclip {itaclip.__version__}")


def test_every_public_name_is_there():
    for name in itaclip.__all__:
        assert getattr(itaclip, name).__name__ == name
    with pytest.raises(AttributeError, match="sgement"):
        itaclip.sgement  # noqa: B018


def test_a_folder_of_configs_in_the_current_folder_comes_first_and_ours_is_found(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert resolve_path("configs/cls_voc21.txt", "x") == PROJECT_ROOT / "configs/cls_voc21.txt"
    own = tmp_path / "configs" / "cls_voc21.txt"
    own.parent.mkdir()
    own.write_text("sky\n")
    assert resolve_path("configs/cls_voc21.txt", "x") == own
