"""Options that commands share: the model, the words, sizes."""

import argparse
import ast
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..errors import InputError
from ..predict.load import Segmenter, load
from ..recipes import RECIPES
from ..runtime.outputs import check_outputs, plan_outputs
from ..runtime.pictures import picture_format, save_picture
from ..vocabulary import load_class_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_model_options(parser: argparse.ArgumentParser, recipe: bool = True) -> None:
    """Which model, and how it is run; see :func:`load_model`."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        metavar="NAME",
        help="OpenAI's name, 'storybook-tiny', hf:OWNER/NAME, a folder that describes its model or "
        "a file of weights; default: ViT-B/16, whose 350 MB are fetched from "
        "openaipublic.azureedge.net into ~/.cache/clip at the first use; see itaclip models",
    )
    group.add_argument(
        "--clip-config",
        type=parse_dict,
        metavar="ACTIVATION,KEY=VALUE…",
        help="what a file of weights alone is computed with: gelu,vision_heads=12,text_heads=8",
    )
    group.add_argument("--config", metavar="FILE", help="take model, classes and size of a config")
    if recipe:
        group.add_argument(
            "--recipe", metavar="NAME", help="the method; default: itaclip, or the config's"
        )
    group.add_argument(
        "--stride",
        type=_positive,
        metavar="PIXELS",
        help="step of the windows; smaller is slower and a little better; default: 56",
    )
    group.add_argument(
        "--short-side",
        type=_positive,
        metavar="PIXELS",
        help="size that pictures are brought to; default: 336 (storybook-tiny: their own)",
    )
    group.add_argument(
        "--max-result-side",
        type=_positive,
        metavar="PIXELS",
        help="larger pictures are labelled at this long side, then enlarged; default: 1024 (with "
        "--config: none)",
    )
    group.add_argument(
        "--regions",
        type=parse_dict,
        metavar="SOURCE[,KEY=VALUE…]",
        help="one label for a region: slic, files,folder=maps or sam,model=FOLDER; rule=vote (by "
        "default), mean or sam_refine; see docs/regions.md",
    )
    group.add_argument(
        "--class-pruning",
        type=parse_dict,
        metavar="RULE[,KEY=VALUE…]",
        help="classes that are not in a picture take no part: max_score or presence",
    )
    group.add_argument(
        "--guide",
        metavar="NAME",
        help="a second backbone, for recipes that need one: dino-vitb8, hf:OWNER/NAME or a folder",
    )
    group.add_argument(
        "--sam", metavar="NAME", help="SAM's encoder beside it, for the recipe trident: sam-vitb"
    )
    group.add_argument(
        "--propagation",
        type=parse_dict,
        metavar="METHOD[,KEY=VALUE…]",
        help="spread similarities among patches or pixels: lposs, lposs_plus or pearl",
    )
    group.add_argument(
        "--merge",
        choices=["average", "stitch"],
        help="how windows meet: their similarities are averaged, or they share one last block",
    )
    group.add_argument("--device", help="such as cpu or cuda:1; default: the first GPU, else cpu")
    group.add_argument(
        "--precision", choices=["auto", "fp32", "bf16", "fp16"], help="default: auto"
    )


def load_model(args: argparse.Namespace) -> Segmenter:
    """The model that :func:`add_model_options` describes."""
    return load(args.model, device=args.device, **model_options(args))


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """What :func:`itaclip.load` takes of it, but for the model's name and the device."""
    keys = ("stride", "short_side", "max_result_side", "precision", "guide", "merge")
    given = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    if args.sam is not None:
        given["guide"] = {"model": args.guide or args.sam, "sam": args.sam}
    named = (
        ("clip_config", "activation"),
        ("regions", "source"),
        ("class_pruning", "rule"),
        ("propagation", "method"),
    )
    for key, first in named:
        if getattr(args, key, None) is not None:
            name, values = getattr(args, key)
            given[key] = {first: name, **values}
    return {"config": args.config, "recipe": getattr(args, "recipe", None), **given}


def add_word_options(parser: argparse.ArgumentParser) -> None:
    """Which classes; see :func:`words`."""
    group = parser.add_argument_group("words")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--classes",
        metavar="WORDS",
        help="';' separates classes, ',' the names of one: \"cat; sofa, couch\"",
    )
    either.add_argument(
        "--class-file", metavar="FILE", help="a line per class, its names separated by commas"
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--background",
        metavar="WORDS",
        help='words for everything else: "sky, wall", or a list of them: @generic, @voc21, plain',
    )
    either.add_argument(
        "--surroundings",
        action="store_true",
        help="a background of common words, but for those that are classes",
    )


def add_figure_options(parser: argparse.ArgumentParser, recipes: Sequence[str], out: str) -> None:
    """The picture, the recipes that a figure shows of it, and the figure's file."""
    parser.add_argument("image", metavar="IMAGE", help="a picture")
    parser.add_argument(
        "--recipes",
        type=parse_recipes,
        default=recipes,
        metavar="NAMES",
        help=f"separated by commas; default: {','.join(recipes)}",
    )
    parser.add_argument("--out", default=out, metavar="FILE", help=f"default: {out}")


def words(args: argparse.Namespace) -> dict:
    """``classes`` and ``background`` as :meth:`itaclip.Segmenter.segment` takes them."""
    if args.class_file is not None:
        classes = [list(names) for names in load_class_names(args.class_file)]
    else:
        classes = args.classes
    if classes is None and args.config is None:
        raise InputError('--classes: expected words, such as --classes "cat; sofa, couch".')
    background = True if args.surroundings else args.background
    if classes is None and background is not None:
        raise InputError("--background: it goes with --classes; the config has classes of its own.")
    return {"classes": classes, "background": background}


def outputs(images: list[Path], out: str, suffix: str = ".png") -> list[Path]:
    """Where the results for images go: a file for a single image, else files in a folder.

    Args:
        images: the pictures.
        out: a file's name with a suffix for one picture; otherwise a folder, as is every name that
            ends in a slash.
        suffix: of files in a folder.

    Raises:
        InputError: a file for several pictures, or a result that would replace a picture.
    """
    path = Path(out).expanduser()
    if path.is_dir() or not path.suffix or out.endswith(("/", os.sep)):
        if path.is_file():
            raise InputError(f"{out}: expected a folder, but this is a file; give another name.")
        return plan_outputs(images, path, suffix)
    if len(images) > 1:
        raise InputError(f"{out}: expected a folder for {len(images)} pictures; give one.")
    check_outputs([path], images)
    return [path]


def parse_pixel(text: str) -> tuple[int, int]:
    """``"ROW,COL"``, for argparse."""
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected ROW,COL, such as 120,200, but got {text!r}")
    return int(parts[0]), int(parts[1])


def parse_dict(text: str) -> tuple[str, dict]:
    """``NAME,KEY=VALUE,…`` for argparse: numbers, True, False and None as such, else texts."""
    name, *pairs = text.split(",")
    values = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise argparse.ArgumentTypeError(
                f"expected NAME,KEY=VALUE,…, such as slic,segments=200, but got {text!r}"
            )
        try:
            values[key.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[key.strip()] = value
    return name.strip(), values


def parse_recipes(text: str) -> list[str]:
    """Names of recipes separated by commas, for argparse."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = [name for name in names if name not in RECIPES] or ([] if names else [text])
    if wrong:
        raise argparse.ArgumentTypeError(
            f"expected names out of {', '.join(RECIPES)}, but got {wrong[0]!r}"
        )
    return names


def save_figure(figure: "Figure", path: Path) -> Path:
    """Writes a figure as PNG, JPEG or WebP, aside and renamed.

    Raises:
        InputError: the suffix is none of these.
    """
    kind = picture_format(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return save_picture(path, Image.open(buffer).convert("RGB"), kind)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number of pixels from 1, but got {text!r}")
    return int(text)
