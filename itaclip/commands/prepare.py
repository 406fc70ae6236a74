"""``itaclip prepare``: makes benchmarks ready, from raw downloads or from nothing."""

import argparse
from pathlib import Path

from ..data.benchmarks import BENCHMARKS, PREPARED
from ..data.preparation.command import (
    SPLITS,
    add_common_options,
    prepare_benchmarks,
    resumable,
    sha1_text,
)
from ..data.preparation.settings import Settings

_ABOUT = """\
Prepare benchmarks for evaluation: find or fetch the raw data, convert the masks, and verify all.

Raw data are looked for in the places given with --raw and below the data root; what is missing is
fetched where no registration is needed. Archives are extracted once, only as far as the split
needs; extracted downloads stay where they are and are linked, so images are never copied.

An interrupted run goes on where it stopped, and a finished one changes nothing. What was prepared
is written to manifest_NAME.json in the benchmark's folder, and the setting to evaluate it with is
printed."""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    table = [BENCHMARKS[name] for name in PREPARED]
    rows = "\n".join(f"  {row.name:12} {row.title:24} {row.folder}" for row in table)
    parser = subparsers.add_parser(
        "prepare",
        help="prepares benchmarks from raw downloads or from nothing",
        description=_ABOUT,
        epilog=f"""examples:
  itaclip prepare voc21
  itaclip prepare coco_stuff coco_object --raw /datasets/coco
  itaclip prepare all --no-download --raw ~/Downloads

benchmarks, and their folders below the data root:
{rows}""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names",
        nargs="+",
        choices=[*PREPARED, "all"],
        metavar="NAME",
        help="a benchmark (see below), or all",
    )
    parser.add_argument(
        "--data-root", type=Path, default=Path("data"), help="where the data go (default: data)"
    )
    parser.add_argument(
        "--raw",
        type=Path,
        nargs="+",
        default=[],
        metavar="PLACE",
        help="raw downloads: archives, or folders that hold archives or extracted downloads",
    )
    add_common_options(parser)
    parser.add_argument("--no-download", action="store_true", help="fetch nothing")
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help="fetch files of the same names from below this URL; checksums stay the same",
    )
    context = parser.add_argument_group("Pascal Context")
    context.add_argument("--context-json", type=Path, metavar="FILE", help="trainval_merged.json")
    context.add_argument(
        "--context-json-sha1",
        type=sha1_text,
        metavar="HEX",
        help="its checksum, if it is not the published file",
    )
    context.add_argument(
        "--context-mat",
        type=Path,
        metavar="PLACE",
        help="folder or archive of .mat masks, for want of the JSON file; scores with these masks "
        "are not comparable to published ones",
    )
    context.add_argument(
        "--context-val-list",
        type=Path,
        metavar="FILE",
        help="list of validation images for --context-mat (default: VOC2010's Main/val.txt)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepares one benchmark after the other; 2 where one could not be.

    Raises:
        InputError: a place that does not exist.
    """
    settings = Settings(
        data_root=args.data_root,
        raw=tuple(args.raw),
        splits=SPLITS[args.split],
        workers=args.workers,
        force=args.force,
        may_download=not args.no_download,
        mirror=args.mirror,
        context_json=args.context_json,
        context_json_sha1=args.context_json_sha1,
        context_mat=args.context_mat,
        context_val_list=args.context_val_list,
    )
    names = PREPARED if "all" in args.names else args.names
    with resumable():
        return prepare_benchmarks(names, settings)
