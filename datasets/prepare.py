"""Prepare benchmarks for evaluation, from raw downloads or from nothing.

python datasets/prepare.py voc21
python datasets/prepare.py coco_stuff coco_object --raw /datasets/coco
python datasets/prepare.py all --no-download --raw ~/Downloads
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.data.benchmarks import BENCHMARKS, PREPARED
from itaclip.data.preparation.command import (
    SPLITS,
    add_common_options,
    prepare_benchmarks,
    run,
    sha1_text,
)
from itaclip.data.preparation.settings import Settings

DESCRIPTION = """\
Prepare benchmarks for evaluation: find or fetch the raw data, convert the masks, and verify all.

Raw data are looked for in the places given with --raw and below the data root; what is missing is
fetched where no registration is needed. Archives are extracted once, only as far as the split
needs; extracted downloads stay where they are and are linked, so images are never copied.

An interrupted run goes on where it stopped, and a finished one changes nothing. What was prepared
is written to manifest_NAME.json in the benchmark's folder."""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    table = [BENCHMARKS[name] for name in PREPARED]
    rows = [f"  {b.name:12} {b.title:24} {b.folder}" for b in table]
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog="benchmarks, and their folders below the data root:\n" + "\n".join(rows),
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
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
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
    return run(lambda: prepare_benchmarks(names, settings))


if __name__ == "__main__":
    sys.exit(main())
