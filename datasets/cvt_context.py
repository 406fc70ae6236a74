"""Make the masks of Pascal Context from trainval_merged.json in an extracted VOC 2010 tree.

    python datasets/cvt_context.py data/VOCdevkit/VOC2010 trainval_merged.json

The same as ``prepare.py context60`` for a tree that is extracted already.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.data.benchmarks import BENCHMARKS
from itaclip.data.preparation.command import SPLITS, add_common_options, finish, run, sha1_text
from itaclip.data.preparation.context import prepare
from itaclip.data.preparation.settings import Settings
from itaclip.errors import InputError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, metavar="VOC2010", help="the extracted VOC2010 folder")
    parser.add_argument("json", type=Path, metavar="JSON", help="trainval_merged.json")
    parser.add_argument(
        "-o",
        "--out-dir",
        "--out_dir",
        type=Path,
        metavar="OUT",
        help="where to write (default: VOC2010); images there are links, never copies",
    )
    parser.add_argument("--json-sha1", type=sha1_text, metavar="HEX", help="checksum of JSON")
    add_common_options(parser)
    args = parser.parse_args(argv)

    def convert() -> int:
        for path in (args.path, args.json):
            if not path.exists():
                raise InputError(f"{path}: no such file or folder; check the path")
        tree = args.out_dir or args.path
        settings = Settings(
            data_root=tree,
            raw=(args.path,),
            splits=SPLITS[args.split],
            workers=args.workers,
            force=args.force,
            may_download=False,
            context_json=args.json,
            context_json_sha1=args.json_sha1,
        )
        reports = prepare(settings, tree)
        for name in ("context60", "context59"):
            finish(name, BENCHMARKS[name], reports, print)
        return 0

    return run(convert)


if __name__ == "__main__":
    sys.exit(main())
