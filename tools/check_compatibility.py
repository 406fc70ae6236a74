"""Shows that the plugin imports, passes its tests and evaluates beside other variants of mmseg.

    python tools/check_compatibility.py [onedl] [openmmlab] [compiled]

Each variant gets a fresh virtual environment in a temporary folder:

onedl      onedl-mmsegmentation 1.4.2 with mmcv-lite 2.2.0, as the README installs it
openmmlab  mmsegmentation 1.2.2 with mmcv-lite 2.1.0
compiled   mmsegmentation 1.2.2 with mmcv 2.1.0 and its operators, built from source: this needs a
           C++ compiler, and half an hour or more
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
TORCH = "torch==2.13.0"
VARIANTS = {
    "onedl": [["-c", "constraints.txt", ".[mmseg,test]"]],
    "openmmlab": [[TORCH, "mmcv-lite==2.1.0", "mmsegmentation==1.2.2", ".[test]"]],
    "compiled": [
        [TORCH, "setuptools<81", "wheel", "ninja", "psutil"],
        ["--no-build-isolation", "mmcv==2.1.0"],
        [TORCH, "mmsegmentation==1.2.2", ".[test]"],
    ],
}
EVALUATION = [
    "eval.py",
    "--config",
    "configs/cfg_storybook.py",
    "--cfg-options",
    "test_dataloader.dataset.indices=5",
]
REPORT = """
import sys, mmcv, mmengine, mmseg, torch, itaclip
from mmcv.utils import collect_env
from importlib.util import find_spec
print(f"mmseg {mmseg.__version__}, mmcv {mmcv.__version__}, mmengine {mmengine.__version__}, "
      f"torch {torch.__version__}, compiled operators: {find_spec('mmcv._ext') is not None}")
"""


def check(variant: str, folder: Path) -> bool:
    """Installs one variant, runs the tests and a short evaluation; True when both pass."""
    environment = folder / variant
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")

    def run(*command: str) -> bool:
        print("+", " ".join(command), flush=True)
        return subprocess.run([python, *command], cwd=PROJECT).returncode == 0

    installed = all(run("-m", "pip", "install", "-q", *step) for step in VARIANTS[variant])
    work = ["--work-dir", str(folder / f"{variant}_work")]
    return (
        installed
        and run("-c", REPORT)
        and run("-m", "pytest", "-q", "tests")
        and run(*EVALUATION[:3], *work, *EVALUATION[3:])
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", nargs="*", default=["onedl", "openmmlab"], choices=VARIANTS)
    variants = parser.parse_args().variant
    with tempfile.TemporaryDirectory() as folder:
        results = {variant: check(variant, Path(folder)) for variant in variants}
    for variant, passed in results.items():
        print(f"{variant}: {'passed' if passed else 'FAILED'}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
