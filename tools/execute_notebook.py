"""Runs a notebook top to bottom and writes its outputs into it, ready to be committed.

    pip install nbclient ipykernel            # both are in the extra `test`
    python tools/execute_notebook.py demo.ipynb

The kernel has an empty home: it finds neither OpenAI's weights nor features of earlier runs, so the
outputs are those of a fresh clone on every machine. What only tells of one machine or one run is
left out: versions, times of execution, warnings and progress bars. Figures lose colours
that nobody sees, and half of their size.
"""

import argparse
import base64
import io
import os
import re
import site
import sys
import tempfile
from pathlib import Path

import matplotlib
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from traitlets.config import Config

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from itaclip.errors import InputError  # noqa: E402
from itaclip.runtime.files import write_whole  # noqa: E402
from itaclip.runtime.tool import run_tool  # noqa: E402

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook: NotebookNode, folder: Path, timeout: int = 600) -> None:
    """Runs every cell and keeps its outputs in the notebook.

    Args:
        folder: the kernel's working folder.
        timeout: of one cell, in seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; it holds cell and traceback.
    """
    with tempfile.TemporaryDirectory() as home:
        own = {
            "HOME": home,
            "USERPROFILE": home,
            "ITACLIP_CACHE_DIR": str(Path(home, "cache")),
            "PYTHONUSERBASE": site.getuserbase(),  # packages installed for the user
            "MPLCONFIGDIR": matplotlib.get_cachedir(),  # else fonts are searched for anew
        }
        # Sockets in the file system, not on the network, where there are such; their paths are
        # limited to about 100 characters.
        files = os.name == "posix" and len(home) < 80
        transport = {"transport": "ipc", "ip": str(Path(home, "kernel"))} if files else {}
        client = NotebookClient(
            notebook,
            config=Config({"KernelManager": transport}),
            timeout=timeout,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute(env=os.environ | own)


def clean(notebook: NotebookNode) -> None:
    """Leaves out what differs between machines and runs; see above."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = small_png(output.data["image/png"])


def refuse_paths(notebook: NotebookNode) -> None:
    """Lets nothing pass that tells where the project lies on one machine.

    Raises:
        InputError: an output holds an absolute path.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            found = re.search(r"(?<![\w.~])(/\w[\w.-]*){2,}|\b[A-Z]:\\", text_of(output))
            if found:
                raise InputError(
                    f"cell {cell.execution_count}: its output has the path {found[0]} of this "
                    "machine; print it relative to the project's root."
                )


def small_png(encoded: str) -> str:
    """A base64 PNG with 64 levels a channel, which looks the same at half the size."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    picture = picture.point([min((level + 2) // 4 * 4, 255) for level in range(256)] * 3)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def text_of(output: NotebookNode) -> str:
    """What an output shows as text."""
    return output.get("text", "") or output.get("data", {}).get("text/plain", "")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args(arguments).notebook
    if not path.is_file():
        raise InputError(f"{path}: there is no such notebook; correct the path.")
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, path.resolve().parent)
    clean(notebook)
    refuse_paths(notebook)
    nbformat.validate(notebook)
    write_whole(path, nbformat.writes(notebook) + "\n")
    print(f"{path}: {len(notebook.cells)} cells, {path.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    sys.exit(run_tool(main))
