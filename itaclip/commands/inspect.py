"""``python -m itaclip inspect``: where a patch looks, and what deep towers do to patches."""

import argparse
from pathlib import Path

from ..errors import InputError
from ..predict.depth import depth_figure, depth_of
from ..predict.inspection import LOOKED_AT, attention_at, attention_figure
from ..runtime.outputs import check_outputs
from ..runtime.pictures import picture_format
from .options import add_figure_options, add_model_options, load_model, parse_pixel, save_figure

_EXAMPLES = """examples:
  python -m itaclip inspect photo.jpg --at 120,200 --recipes clip,naclip,itaclip --out attention.png
  python -m itaclip inspect docs/scene.png --model storybook-tiny --at 100,120
  python -m itaclip inspect docs/scene.png --model storybook-tiny --depth

Each map is the last block's attention of the patch under the pixel, mean over heads, on the whole
picture at once. --depth prints, block by block, the entropy of attention (1: looks everywhere
alike), the most that one patch gets of it, how alike patches are, and where outlier patches sit."""
_OUT = "attention.png"


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="shows where a pixel's patch looks, recipe by recipe",
        description="Shows where a pixel's patch looks in the last block, recipe by recipe.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_figure_options(parser, LOOKED_AT, _OUT)
    parser.add_argument(
        "--at",
        type=parse_pixel,
        metavar="ROW,COL",
        help="the pixel in the picture, counted from 0; needed but for --depth",
    )
    parser.add_argument(
        "--depth",
        action="store_true",
        help="the plain tower block by block instead: entropy of its attention, how alike patches "
        "are, where outliers sit; deep towers collapse, and this shows how",
    )
    add_model_options(parser, recipe=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.at is None and not args.depth:
        raise InputError("inspect: expected --at ROW,COL, or --depth.")
    target = Path("depth.png" if args.depth and args.out == _OUT else args.out)
    picture_format(target)
    check_outputs([target], [args.image])
    model = load_model(args)
    if args.depth:
        depth = depth_of(model, args.image)
        print(depth.table())
        print(save_figure(depth_figure(depth), target))
        return
    found = attention_at(model, args.image, args.at, args.recipes)
    for one in found:
        rows, columns = one.weights.shape
        row, column = divmod(int(one.weights.argmax()), columns)
        print(
            f"{one.recipe}: patch {one.patch[0]},{one.patch[1]} of {rows}x{columns} looks most at "
            f"{row},{column} ({one.weights.max():.3g}), at itself {one.weights[one.patch]:.3g}, "
            f"at [CLS] {one.cls:.3g}"
        )
    print(save_figure(attention_figure(args.image, found), target))
