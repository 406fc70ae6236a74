"""``itaclip label``: collections of pictures, on one machine or a cluster."""

import argparse
import sys

from ..errors import InputError
from .options import add_model_options, add_word_options, model_options, words

_EXAMPLES = """examples:
  itaclip label photos/ --classes "car; person; road" --surroundings --out labels
  itaclip label "s3://bucket/shards/*.tar" --class-file classes.txt --out s3://bucket/labels \\
      --address auto
  itaclip label train.parquet --classes "cat; dog" --out labels --format png --engine local

Started again with the same settings, it goes on after the last finished part. A picture that cannot
be used is a row with a sentence; the exit code is then 1, or 2 if there is no other."""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "label",
        help="labels collections of pictures, on one machine or a cluster",
        description="Labels collections of pictures, on one machine or, by Ray Data, on many.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder (with all folders in it), a pattern in quotes, a .txt with a path or URL a "
        "line, Parquet or tar (WebDataset) files; here, or at s3:// or gs://",
    )
    parser.add_argument(
        "--out", required=True, metavar="DEST", help="a folder of its own, or an s3:// or gs:// URL"
    )
    add_word_options(parser)
    group = parser.add_argument_group("results")
    group.add_argument(
        "--format",
        choices=["parquet", "png"],
        default="parquet",
        help="Parquet files that hold all, or PNGs with files of lines (.jsonl); default: parquet",
    )
    group.add_argument(
        "--labels",
        choices=["png", "rle"],
        default="png",
        help="label maps as PNG, or a mask of every class in COCO's run-length code; default: png",
    )
    group.add_argument(
        "--shard-size",
        type=_count,
        default=1000,
        metavar="N",
        help="pictures in one part, which is done or not done as a whole; a tar file is always one "
        "part; default: 1000",
    )
    group.add_argument(
        "--max-errors",
        type=_count_or_none,
        default=1000,
        metavar="N",
        help="end when more pictures cannot be used; default: 1000",
    )
    group.add_argument(
        "--prob-thd",
        type=float,
        metavar="0-1",
        help="pixels whose best score is below become background",
    )
    group.add_argument(
        "--area-thd",
        type=float,
        metavar="0-1",
        help="classes with at most this share of the area of all but class 0 are left out",
    )
    group = parser.add_argument_group("Parquet sources")
    group.add_argument("--image-column", metavar="NAME", help="of bytes, or of paths and URLs")
    group.add_argument(
        "--key-column", metavar="NAME", help="what names a picture; default: its row"
    )
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=["auto", "ray", "local"],
        default="auto",
        help="Ray Data or this process alone; default: Ray where it is installed",
    )
    group.add_argument(
        "--address", metavar="ADDRESS", help="of a running Ray cluster to join, such as auto"
    )
    group.add_argument(
        "--actors",
        type=_count,
        metavar="N",
        help="models at work on Ray; default: one for every GPU, or CPU but one",
    )
    group.add_argument(
        "--gpus", type=float, metavar="SHARE", help="of an actor, such as 0.5; default: 1, if any"
    )
    group.add_argument(
        "--threads", type=_count, metavar="N", help="CPU threads of a model; default on Ray: 1"
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Raises SystemExit(1) when pictures have no labels, 2 when none has."""
    from ..evaluation.inputs import versions
    from ..evaluation.signals import stop_signals
    from ..labelling.job import make_job
    from ..labelling.places import Place, need_pyarrow
    from ..labelling.run import check_apart, choose_engine
    from ..labelling.run import run as label
    from ..labelling.source import find_source

    asked = words(args)
    engine = choose_engine(args.engine, args.address)
    if args.format == "parquet":
        need_pyarrow("--format parquet (png takes nothing)")
    if args.device is not None and engine == "ray":
        raise InputError(
            "--device: Ray gives every actor its device; say --gpus 0 for CPUs, or --engine local."
        )
    if args.gpus is not None and args.gpus < 0:
        raise InputError(f"--gpus: expected a share from 0, but got {args.gpus:g}.")
    check_apart(args.source, args.out)
    with stop_signals():
        source = find_source(args.source, args.shard_size, args.image_column, args.key_column)
        job = make_job(
            args.model,
            asked["classes"],
            background=asked["background"],
            prob_thd=args.prob_thd,
            area_thd=args.area_thd,
            labels=args.labels,
            **model_options(args),
        )
        many = "" if source.pictures is None else f", {source.pictures} pictures"
        print(f"{args.source}: {len(source.shards)} part(s){many}; engine: {engine}", flush=True)
        manifest = label(
            source,
            Place(args.out),
            args.format,
            job,
            engine=engine,
            max_errors=args.max_errors,
            settings={"format": args.format, "shard_size": args.shard_size},
            start={"versions": versions(), "engine": engine},
            address=args.address,
            actors=args.actors,
            gpus=args.gpus,
            threads=args.threads,
            device=args.device,
            say=lambda line: print(line, flush=True),
        )
    failed, pictures = manifest.failed, manifest.pictures
    print(f"{pictures - failed} pictures labelled -> {args.out}")
    if failed:
        print(f"{failed} of {pictures} pictures have no labels: see manifest.json", file=sys.stderr)
        raise SystemExit(2 if failed == pictures else 1)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1, but got {text!r}")
    return int(text)


def _count_or_none(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0, but got {text!r}")
    return int(text)
