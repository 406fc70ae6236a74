"""Print the table of hostile inputs: message, exit code, seconds and peak memory of each.

    python tools/bad_input.py
    python tools/bad_input.py segment check

Every row runs in a process of its own, forked from one in which the packages are imported, so that
seconds and memory are the row's. The rows are those of the tests (``tests/hostile.py``, and
``eval.py``'s of ``tests/test_hostile_input.py``).
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

from hostile import ROWS, Row, prepare, run  # noqa: E402

from itaclip.runtime.tool import run_tool  # noqa: E402

_SECONDS = 60  # after which a row counts as hanging


def eval_rows() -> Iterator[tuple[Row, Callable[[Path], object]]]:
    """The rows of eval.py, and what makes their folder."""
    import test_hostile_input as tests

    def folder(path: Path) -> None:
        prepare(path)
        (path / "names.txt").write_text("sky\ncat\ndog\n")
        (path / "cfg.py").write_text(tests.CONFIG.format(project=PROJECT))

    door = ["eval", "--config", "cfg.py"]
    for table in (tests.SAMPLES, tests.DATA, tests.CONFIGS):
        for name, (change, words) in table.items():
            change = _renumbered(change)
            yield Row(door, name, change, words), folder
    for option, words in tests.OPTIONS.items():
        yield Row([*door, "--cfg-options", option], option, lambda path: None, words), folder


def _renumbered(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """The tests spoil sample 1; here are two, so that it is there."""

    def make(path: Path) -> None:
        for kind in ("images", "masks"):
            (path / f"data/{kind}/1.png").write_bytes((path / f"data/{kind}/0.png").read_bytes())
        change(path)

    return make


def _resident() -> int:
    """kB that this process holds; a forked one begins with them."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(row: Row, folder: Callable[[Path], object]) -> tuple[str, int | None, float, float]:
    """Message, exit code (None: it hung), seconds and MB that the row took."""
    with tempfile.TemporaryDirectory() as name:
        folder(Path(name))
        row.make(Path(name))
        reading, writing = os.pipe()
        base = _resident()
        begun = time.monotonic()
        child = os.fork()
        if child == 0:
            os.chdir(name)
            signal.alarm(_SECONDS)
            code, message = run(row)
            os.write(writing, message.encode()[-4000:])
            os._exit(code)
        os.close(writing)
        message = os.fdopen(reading).read()
        _, status, used = os.wait4(child, 0)
        seconds = time.monotonic() - begun
    code = os.waitstatus_to_exitcode(status)
    return message, None if code < 0 else code, seconds, max(0, used.ru_maxrss - base) / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 where a row fell short."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("doors", nargs="*", metavar="COMMAND", help="these alone, such as segment")
    args = parser.parse_args(arguments)
    import test_evaluation  # noqa: F401  (everything heavy, before the first fork)

    import itaclip

    itaclip.load("storybook-tiny", pamr=None)
    os.environ["ITACLIP_CACHE_DIR"] = tempfile.mkdtemp()
    rows = [*((row, prepare) for row in ROWS), *eval_rows()]
    rows = [pair for pair in rows if not args.doors or pair[0].door[0] in args.doors]
    print("| door | input | exit code | seconds | MB | message |\n|---|---|---:|---:|---:|---|")
    short = 0
    for row, folder in rows:
        message, code, seconds, megabytes = measure(row, folder)
        short += code != row.code or "Traceback" in message
        last = next((line for line in message.splitlines()[::-1] if line.strip()), "")
        shown = last.replace("|", "\\|")[:160]
        hung = "hangs" if code is None else code
        print(
            f"| {row.door[0]} | {row.name} | {hung} | {seconds:.2f} | {megabytes:.0f} | {shown} |"
        )
    print(f"\n{len(rows)} rows, {short} fell short", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
