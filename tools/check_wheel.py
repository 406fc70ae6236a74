"""Shows that an installed wheel is whole: builds it, installs it, uses it in an empty folder.

    python tools/check_wheel.py

A fresh virtual environment and a folder with nothing in it: single pictures, the drawn benchmark, a
config that inherits one of ours, mmseg's own helper with it, and, where the extra is asked for, the
page. Another package's ``configs`` folder beside ours must not be picked up.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
SCENE = "from itaclip.storybook.benchmark import evaluation_scene as s; from PIL import Image; "
SCENE += "Image.fromarray(s('test', 0).image).save('scene.png')"
OWN = """_base_ = __import__("itaclip").shipped_file("configs/cfg_storybook.py")
model = dict(attention="naclip", name_path="configs/cls_storybook.txt", pamr=None)
"""
HELPER = """from mmseg.apis import inference_model, init_model
model = init_model("cfg_own.py", device="cpu")
print("labels", tuple(inference_model(model, "scene.png").pred_sem_seg.data.shape))"""
PLACES = """import itaclip, sys
from pathlib import Path
from itaclip.runtime.files import PROJECT_ROOT, resolve_path
assert Path(itaclip.__file__).is_relative_to(sys.prefix), itaclip.__file__
foreign = Path(itaclip.__file__).parents[1] / "configs"
foreign.mkdir()
(foreign / "cls_voc21.txt").write_text("not ours")
assert resolve_path("configs/cls_voc21.txt", "name_path").read_text() != "not ours"
"""
PAGE = """from itaclip import load
from itaclip.app.examples import drawn_examples
from itaclip.app.page import Page
from itaclip.app.workbench import Workbench
Page(Workbench(load("storybook-tiny")), drawn_examples(), "page")
print("page built")"""
COMMANDS = {
    "places": ("python", "-c", PLACES),
    "picture": ("python", "-c", SCENE),
    "segment": (
        *("itaclip", "segment", "scene.png", "--model", "storybook-tiny"),
        *("--classes", "sky; sea; tree", "--out", "result.png"),
    ),
    "help": ("itaclip", "--help"),
    "eval": ("itaclip", "eval", "--config", "configs/cfg_storybook.py", "--limit", "3"),
    "eval of an own config": ("itaclip", "eval", "--config", "cfg_own.py", "--limit", "3"),
    "check": ("itaclip", "check", "--config", "configs/cfg_storybook.py", "--cheap"),
    "mmseg's helper": ("python", "-c", HELPER),
    "page": ("python", "-c", PAGE),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", default="mmseg,app", help="default: %(default)s")
    extras = parser.parse_args().extras
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheels = folder / "wheels"
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels)]
        subprocess.run([*pip, str(PROJECT)], check=True)
        (wheel,) = wheels.glob("*.whl")
        venv.create(folder / "env", with_pip=True)
        bin_folder = folder / "env" / "bin"
        install = [bin_folder / "python", "-m", "pip", "install", "-q"]
        constraints = ["-c", str(PROJECT / "constraints.txt")]
        subprocess.run([*install, *constraints, f"{wheel}[{extras}]"], check=True)
        empty = folder / "empty"
        empty.mkdir()
        (empty / "cfg_own.py").write_text(OWN, encoding="utf-8")
        for name, (program, *arguments) in COMMANDS.items():
            if name == "page" and "app" not in extras:
                continue
            print(f"+ {name}", flush=True)
            result = subprocess.run(
                [bin_folder / program, *arguments], cwd=empty, capture_output=True, text=True
            )
            if result.returncode != 0:
                print(result.stdout[-2000:], result.stderr[-4000:], sep="\n")
                print(f"the wheel falls short: {name} ended with {result.returncode}")
                return 1
        written = sorted(path.name for path in empty.iterdir())
    print(f"the wheel is whole; written: {', '.join(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
