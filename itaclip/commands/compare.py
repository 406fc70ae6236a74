"""``python -m itaclip compare``: several recipes on one picture, side by side."""

import argparse
from pathlib import Path

from ..predict.inspection import COMPARED, compare, comparison_figure
from ..runtime.outputs import check_outputs
from ..runtime.pictures import picture_format
from .options import (
    add_figure_options,
    add_model_options,
    add_word_options,
    load_model,
    parse_pixel,
    save_figure,
    words,
)

_EXAMPLES = """examples:
  python -m itaclip compare photo.jpg --classes "cat; sofa, couch" --recipes clip,naclip,itaclip
  python -m itaclip compare photo.jpg --classes "sky; sea; boat" --at 120,200 --out compared.png

The weights are loaded once. --at adds a row: where the patch of that pixel looks."""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="shows several recipes on one picture",
        description="Segments one picture with several recipes and shows them side by side.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_figure_options(parser, COMPARED, "comparison.png")
    parser.add_argument(
        "--at", type=parse_pixel, metavar="ROW,COL", help="a pixel whose attention is shown too"
    )
    add_word_options(parser)
    add_model_options(parser, recipe=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    asked = words(args)
    target = Path(args.out)
    picture_format(target)
    check_outputs([target], [args.image])
    model = load_model(args)
    found = compare(model, args.image, **asked, recipes=args.recipes, at=args.at, scores=False)
    for one in found:
        areas = one.segmentation.areas().items()
        print(f"{one.recipe}: " + ", ".join(f"{name} {share:.1%}" for name, share in areas))
    print(save_figure(comparison_figure(found), target))
