"""``python -m itaclip segment``: pictures into words."""

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from ..errors import InputError
from ..predict.images import find_images
from ..predict.outputs import FORMATS, Exporter, Options
from ..predict.segmentation import Segmentation
from ..runtime.decoding import check_bits
from ..runtime.files import printable, write_whole
from ..runtime.outputs import check_outputs
from ..runtime.pictures import picture_format
from .options import add_model_options, add_word_options, load_model, outputs, words

_FOLDER = "segmented"
_EXAMPLES = """examples:
  python -m itaclip segment photo.jpg --classes "cat; remote control; sofa, couch" --out result.png
  python -m itaclip segment photos/ "more/**/*.jpg" --classes "car; person" --surroundings --out out
  python -m itaclip segment photo.jpg --classes "sky; sea" --mask labels.png --json areas.json
  python -m itaclip segment docs/scene.png --model storybook-tiny --classes "sky; sea; boat; tree"
  python -m itaclip segment photos --classes "car; person" --format labelme,coco --out results

Without --out, --mask, --json and --format, the picture goes to PHOTO_segmented.png in the current
folder. A picture that cannot be read is left out and listed; the exit code is then 1, or 2 if all
are."""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "segment",
        help="segments pictures into any words",
        description="Segments pictures into any words.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders or glob patterns in quotes"
    )
    add_word_options(parser)
    group = parser.add_argument_group("results")
    group.add_argument(
        "--out",
        metavar="PATH",
        help="picture and overlay side by side with legend (.png, .jpg, .webp); for several "
        "pictures a folder",
    )
    group.add_argument(
        "--mask", metavar="PATH", help="labels as PNG whose values are class numbers; likewise"
    )
    group.add_argument(
        "--format",
        type=_formats,
        default=[],
        metavar="NAMES",
        help=f"formats of other tools, separated by commas, out of {', '.join(FORMATS)}; --out is "
        "then the folder for them",
    )
    group.add_argument(
        "--tolerance",
        type=float,
        default=Options.tolerance,
        metavar="PIXELS",
        help="how far polygons may leave the edge; 0 follows every pixel; default: %(default)s",
    )
    group.add_argument(
        "--min-area",
        type=int,
        default=Options.min_area,
        metavar="PIXELS",
        help="smaller pieces are left out of shapes and instances; default: %(default)s",
    )
    group.add_argument(
        "--json",
        metavar="FILE",
        nargs="?",
        const="-",
        help="classes, areas and boxes as a list with an entry for every picture; without FILE on "
        "stdout, where nothing else is written then",
    )
    group.add_argument(
        "--opacity", type=float, default=0.6, metavar="0-1", help="of the colours; default: 0.6"
    )
    group.add_argument(
        "--prob-thd",
        type=float,
        metavar="0-1",
        help="pixels whose best score is below become background",
    )
    group.add_argument(
        "--margin-thd",
        type=float,
        metavar="0-1",
        help="so do pixels whose best score is ahead of the second class's by less",
    )
    group.add_argument(
        "--area-thd",
        type=float,
        metavar="0-1",
        help="classes with at most this share of the area of all but class 0 are left out",
    )
    group.add_argument(
        "--bits",
        type=int,
        metavar="8-16",
        help="that pictures of 16 bits really have, such as 12; by default those whose values stay "
        "below a quarter of 16 bits are refused",
    )
    group.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="for pictures larger than memory: label them tile by tile at their own resolution, "
        "such as 2048; --out is then a GeoTIFF, or a folder for several; a stopped run goes on",
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Raises SystemExit(1) when pictures were left out."""
    images = list(dict.fromkeys(path for given in args.images for path in find_images(given)))
    if args.json not in (None, "-") and not args.json.lower().endswith(".json"):
        raise InputError(f"--json: expected a file name that ends in .json, but got {args.json!r}.")
    if not 0 <= args.opacity <= 1:
        raise InputError(f"--opacity: expected a number from 0 to 1, but got {args.opacity:g}.")
    check_bits(args.bits, "--bits")
    if args.tile is not None:
        _segment_large(args, images)
        return
    pictures, masks = _targets(args, images)
    options = Options(args.min_area, args.tolerance, args.opacity)
    exporter = Exporter(args.format, images, args.out or _FOLDER, options)
    files = [args.json] if args.json not in (None, "-") else []
    read = [path for path in (args.class_file, args.config) if path is not None]
    check_outputs([*pictures.values(), *masks.values(), *exporter.planned, *files], images, read)
    asked = words(args)
    model = load_model(args)
    log = sys.stderr if args.json == "-" else sys.stdout
    bad: dict[str, str] = {}

    def left_out(source: str, error: InputError) -> None:
        bad[source] = str(error)
        entries.append({"image": source, "error": str(error)})
        print(printable(f"left out: {error}"), file=sys.stderr)

    entries: list[dict] = []
    results = model.segment_batch(
        images,
        **asked,
        prob_thd=args.prob_thd,
        margin_thd=args.margin_thd,
        area_thd=args.area_thd,
        bits=args.bits,
        scores=args.json is not None or exporter.needs_scores,
        on_error=left_out,
    )
    try:
        for result in results:
            written = []
            if pictures:
                written.append(result.save(pictures[Path(result.source)], args.opacity))
            if masks:
                written.append(result.save_mask(masks[Path(result.source)]))
            written += exporter.write(result)
            if args.json is not None:
                entries.append(result.as_dict())
            print(printable(_line(result, written)), file=log, flush=True)
    finally:  # interrupted too, what was found is kept
        for path in exporter.finish():
            print(printable(str(path)), file=log)
        if args.json is not None and entries:
            _write_json(entries, args.json)
    if bad:
        print(
            printable(f"{len(bad)} of {len(images)} pictures were left out: {', '.join(bad)}"),
            file=sys.stderr,
        )
        raise SystemExit(2 if len(bad) == len(images) else 1)


def _segment_large(args: argparse.Namespace, images: list[Path]) -> None:
    """Pictures larger than memory; see :mod:`itaclip.predict.large`."""
    from ..predict.large import segment_large

    wrong = {
        "--mask": args.mask, "--json": args.json, "--format": args.format,
        "--margin-thd": args.margin_thd, "--area-thd": args.area_thd,
    }  # fmt: skip
    for option, value in wrong.items():
        if value:
            raise InputError(f"{option}: it does not go with --tile, which writes GeoTIFFs alone.")
    out = args.out or (f"{images[0].stem}_labels.tif" if len(images) == 1 else _FOLDER)
    targets = outputs(images, out, ".tif")
    check_outputs(targets, images)
    asked = words(args)
    model = load_model(args)
    for image, target in zip(images, targets, strict=True):
        with tqdm(desc=image.name, unit="tile") as bar:

            def shown(done: int, of: int, bar: tqdm = bar) -> None:
                bar.total = of
                bar.update(done - bar.n)

            segment_large(
                model, image, target, **asked, prob_thd=args.prob_thd, tile=args.tile, on_tile=shown
            )
        print(f"{image} -> {target}", flush=True)


def _targets(
    args: argparse.Namespace, images: list[Path]
) -> tuple[dict[Path, Path], dict[Path, Path]]:
    """Picture → where its overlay and its mask go; empty where they are not asked for."""
    out = None if args.format else args.out
    if out is None and args.mask is None and args.json is None and not args.format:
        out = f"{images[0].stem}_segmented.png" if len(images) == 1 else _FOLDER
    pictures = {} if out is None else dict(zip(images, outputs(images, out), strict=True))
    masks = {} if args.mask is None else dict(zip(images, outputs(images, args.mask), strict=True))
    for path in pictures.values():
        picture_format(path)
    for path in masks.values():
        if path.suffix.lower() != ".png":
            raise InputError(
                f"--mask: {path}: expected a file name that ends in .png, or a folder."
            )
    return pictures, masks


def _formats(text: str) -> list[str]:
    """Names of formats separated by commas, for argparse."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if name not in FORMATS] or ([] if names else [text])
    if wrong:
        raise argparse.ArgumentTypeError(
            f"expected names out of {', '.join(FORMATS)}, but got {wrong[0]!r}"
        )
    return names


def _line(result: Segmentation, written: list[Path]) -> str:
    found = ", ".join(f"{name} {share:.1%}" for name, share in result.areas().items())
    places = "".join(f" -> {path}" for path in written)
    return f"{result.source}: {found}{places}"


def _write_json(entries: list[dict], target: str) -> None:
    text = json.dumps(entries, indent=2, ensure_ascii=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    write_whole(Path(target).expanduser(), text)
