"""``python -m itaclip inspect``: where a pixel's patch looks, recipe by recipe."""

import argparse
from pathlib import Path

from ..predict.inspection import LOOKED_AT, attention_at, attention_figure
from .options import add_figure_options, add_model_options, load_model, parse_pixel, save_figure

_EXAMPLES = """examples:
  python -m itaclip inspect photo.jpg --at 120,200 --recipes clip,naclip,itaclip --out attention.png
  python -m itaclip inspect docs/scene.png --model storybook-tiny --at 100,120

Each map is the last block's attention of the patch under the pixel, mean over heads, on the whole
picture at once. Recipes are listed in the README."""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "inspect",
        help="shows where a pixel's patch looks, recipe by recipe",
        description="Shows where a pixel's patch looks in the last block, recipe by recipe.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_figure_options(parser, LOOKED_AT, "attention.png")
    parser.add_argument(
        "--at",
        required=True,
        type=parse_pixel,
        metavar="ROW,COL",
        help="the pixel in the picture, counted from 0",
    )
    add_model_options(parser, recipe=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    model = load_model(args)
    found = attention_at(model, args.image, args.at, args.recipes)
    for one in found:
        rows, columns = one.weights.shape
        row, column = divmod(int(one.weights.argmax()), columns)
        print(
            f"{one.recipe}: patch {one.patch[0]},{one.patch[1]} of {rows}x{columns} looks most at "
            f"{row},{column} ({one.weights.max():.3g}), at itself {one.weights[one.patch]:.3g}, "
            f"at [CLS] {one.cls:.3g}"
        )
    print(save_figure(attention_figure(args.image, found), Path(args.out)))
