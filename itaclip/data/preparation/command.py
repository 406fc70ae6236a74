"""What the command lines share: options, messages, and the loop over benchmarks."""

import argparse
import contextlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...errors import InputError
from ...runtime.files import PROJECT_ROOT, printable
from ...runtime.tool import door, run_tool
from ..benchmarks import BENCHMARKS, PREPARED
from .manifest import SplitReport, manifest_path, read_manifest, write_manifest
from .settings import Settings

SPLITS = {"val": ("val",), "train": ("train",), "both": ("train", "val")}


def default_workers() -> int:
    """Return the number of processes to use: the usable cores, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(16, len(os.sched_getaffinity(0)))
    return min(16, os.cpu_count() or 1)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every script of the preparation takes."""
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="val",
        help="which images to prepare (default: val, all that evaluation needs)",
    )
    parser.add_argument(
        "--workers",
        "--nproc",
        type=_workers,
        default=default_workers(),
        metavar="N",
        help="processes (default: %(default)s)",
    )
    parser.add_argument(
        "--force", action="store_true", help="make every mask again, even finished ones"
    )


def _workers(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a number of processes, but got {text!r}")
    return int(text)


def sha1_text(text: str) -> str:
    """Parse a sha1 checksum from the command line."""
    if not re.fullmatch(r"[0-9a-fA-F]{40}", text):
        raise argparse.ArgumentTypeError(f"expected 40 hexadecimal digits, but got {text!r}")
    return text.lower()


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C says besides that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note("what is finished stays; run the same command again to go on")
        raise


def prepare_benchmarks(names: Sequence[str], settings: Settings) -> int:
    """Prepare benchmarks one after the other; return the exit code.

    A benchmark that cannot be prepared does not keep the others from it. Benchmarks that share
    their files are prepared once.
    """
    settings.check()
    reports: dict[Callable[..., list[SplitReport]], list[SplitReport]] = {}
    failures: dict[Callable[..., list[SplitReport]], InputError] = {}
    for name in dict.fromkeys(names):
        benchmark = BENCHMARKS[name]
        tree = settings.data_root / benchmark.folder
        recipe = benchmark.prepare()
        if recipe not in reports and recipe not in failures:
            settings.remembered = _remembered_places(settings.data_root)
            try:
                reports[recipe] = recipe(settings, tree)
            except InputError as error:
                failures[recipe] = error
                print(printable(f"error: {name}: {error}"), file=sys.stderr)
        if recipe in reports:
            finish(name, tree, reports[recipe], settings.say)
    return 2 if failures else 0


def finish(name: str, tree: Path, reports: list[SplitReport], say: Callable[[str], None]) -> None:
    """Write the manifest of a prepared benchmark, and say what was done and how to go on."""
    benchmark = BENCHMARKS[name]
    path = write_manifest(name, benchmark.classes, benchmark.images, reports)
    for report in reports:
        say(f"{name} {report.split}: {report.masks.total} masks, {report.masks.describe()}")
        expected = benchmark.images[report.split]
        if report.masks.total != expected:
            say(
                f"warning: {name} {report.split} should have {expected} images but has "
                f"{report.masks.total}: scores will not be comparable to published ones"
            )
    say(f"{name}: manifest {path}")
    usual = Path("data") / benchmark.folder  # as the configs say
    found = next((p for p in (usual, PROJECT_ROOT / usual) if p.exists()), None)
    setting = ""
    if found is None or not found.samefile(tree):
        place = shlex.quote(f"test_dataloader.dataset.data_root={tree.resolve()}")
        setting = f" --cfg-options {place}"
    say(f"{name}: evaluate with {door('eval')} --config {benchmark.config()}{setting}")


def _remembered_places(data_root: Path) -> list[Path]:
    """Return raw folders that earlier runs used, so that they need not be named again."""
    places = []
    for name in PREPARED:
        manifest = read_manifest(manifest_path(data_root / BENCHMARKS[name].folder, name))
        for entry in manifest.get("splits", {}).values():
            with contextlib.suppress(KeyError, TypeError):
                places.append(Path(entry["raw"]))
    return list(dict.fromkeys(places))


def convert_tree(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a thin script ``PATH -o OUT`` that converts one extracted tree.

    Masks are written to ``OUT``, by default ``PATH`` itself; if they differ, images are linked.
    Pascal Context takes its annotation file besides: ``PATH JSON -o OUT``.
    """
    benchmark, context = BENCHMARKS[name], name.startswith("context")
    parser = argparse.ArgumentParser(
        description=f"Make the masks of {benchmark.title} in an extracted tree; the same as "
        f"`itaclip prepare {name}` for one that is extracted already."
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="the extracted download")
    if context:
        parser.add_argument("json", type=Path, metavar="JSON", help="trainval_merged.json")
        parser.add_argument("--json-sha1", type=sha1_text, metavar="HEX", help="checksum of JSON")
    parser.add_argument(
        "-o",
        "--out-dir",
        "--out_dir",
        type=Path,
        metavar="OUT",
        help="where to write (default: PATH); images there are links, never copies",
    )
    add_common_options(parser)
    args = parser.parse_args(arguments)

    def main() -> int:
        if not args.path.is_dir():
            raise InputError(
                f"{args.path}: expected the folder of the extracted download; check the path"
            )
        tree = args.out_dir or args.path
        settings = Settings(
            data_root=tree,
            raw=(args.path,),
            splits=SPLITS[args.split],
            workers=args.workers,
            force=args.force,
            may_download=False,
            need_images=context,
            context_json=args.json if context else None,
            context_json_sha1=args.json_sha1 if context else None,
        )
        settings.check()
        with resumable():
            reports = benchmark.prepare()(settings, tree)
        for other in ("context60", "context59") if context else (name,):
            finish(other, tree, reports, settings.say)
        return 0

    return run_tool(main)
