"""The stand-in for mmcv's operators, in processes of their own."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PROJECT

WITHOUT = """
import sys
import itaclip, mmcv, mmseg.models
from mmcv.utils import collect_env
assert "mmcv.ops" not in sys.modules, "the stand-in stayed"
assert importlib.util.find_spec("mmcv._ext") is None
collect_env()
try:
    import mmcv.ops
except ModuleNotFoundError:
    print("no operators")
"""

# A package that looks like a compiled mmcv: every operator exists, and says so when called.
FAKE_EXTENSION = """
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *args, **kwargs: name
"""

WITH = """
import sys
import mmcv
mmcv.__path__.append({folder!r})
import itaclip, mmcv.ops, mmseg.models
from mmseg.models.losses import focal_loss
assert mmcv.ops.point_sample.__module__.startswith("mmcv.ops."), "not mmcv's own"
assert focal_loss._sigmoid_focal_loss is mmcv.ops.sigmoid_focal_loss
print("own operators")
"""


def run(code):
    code = "import importlib.util\n" + code
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=PROJECT, capture_output=True, text=True
    )


@pytest.mark.skipif(
    importlib.util.find_spec("mmcv._ext") is not None, reason="mmcv's operators are compiled here"
)
def test_the_stand_in_leaves_no_trace():
    result = run(WITHOUT)
    assert result.stdout.strip().endswith("no operators"), result.stderr


def test_compiled_operators_are_left_alone(tmp_path: Path):
    (tmp_path / "_ext.py").write_text(FAKE_EXTENSION)
    result = run(WITH.format(folder=str(tmp_path)))
    assert result.stdout.strip().endswith("own operators"), result.stderr
