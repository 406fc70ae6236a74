"""One table over recipes and modules, all on the same images.

    python tools/compare_recipes.py --config configs/cfg_storybook.py

Every recipe is evaluated alone and with image engineering (+IE), auxiliary text (+text), refinement
(+PAMR), and all three, with the config's values of λ (0.75 where it is off), α and PAMR. A recipe
can be varied: 'naclip(gaussian_std=3.0)'. The cells share weights, pictures and features as the
ablations do.
"""

import argparse
import ast
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation

from itaclip.errors import InputError
from itaclip.evaluation.arguments import parse_arguments
from itaclip.evaluation.command import load_config
from itaclip.evaluation.grid import Study, evaluate_plan, make_plan
from itaclip.evaluation.grid.studies import LAMBDA, own
from itaclip.recipes import RECIPES
from itaclip.runtime.files import resolve_path
from itaclip.runtime.tool import run_tool

DEFAULT = [
    *("clip", "maskclip", "sclip", "clearclip", "naclip", "itaclip", "itaclip_gaussian"),
    *("clipseg", "clip_surgery", "gem", "resclip", "scclip", "pearl"),
    "rfclip(channels=())",  # its published channels are ViT-B/16's; the tiny model's do not spike
]
_MODULES = {
    "image_engineering_weight": (None, own("image_engineering_weight", LAMBDA)),
    "aux_text_weight": (0.0, own("aux_text_weight", 0.0)),
    "pamr": (None, own("pamr", None)),
}


def _column(*on: bool) -> dict:
    pairs = zip(_MODULES.items(), on, strict=True)
    return {f"model.{key}": values[is_on] for (key, values), is_on in pairs}


# Column: image engineering, auxiliary text, PAMR.
COLUMNS = {
    "alone": _column(False, False, False),
    "+IE": _column(True, False, False),
    "+text": _column(False, True, False),
    "+PAMR": _column(False, False, True),
    "all": _column(True, True, True),
}


def parse_recipe(spec: str) -> str | dict:
    """``name`` or ``name(key=value, …)`` as a config's ``attention``."""
    name, bracket, _ = spec.partition("(")
    try:
        if name not in RECIPES:
            raise ValueError(f"{name!r} is none of {', '.join(RECIPES)}")
        if not bracket:
            return name
        call = ast.parse(spec, mode="eval").body
        if not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("only key=value goes into the brackets")
        return dict(recipe=name, **{k.arg: ast.literal_eval(k.value) for k in call.keywords})
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise InputError(
            f"--recipes: expected a name, or one with changes such as 'naclip(gaussian_std=3.0)', "
            f"but got {spec!r} ({error})."
        ) from error


def render(results: dict) -> str:
    """The Markdown table of mIoU."""
    lines = ["| recipe | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for recipe, cells in results["mIoU"].items():
        lines.append(f"| {recipe} | " + " | ".join(f"{cells[c]:.1f}" for c in COLUMNS) + " |")
    return "\n".join(lines)


def mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/cfg_storybook.py")
    parser.add_argument("--recipes", nargs="+", default=DEFAULT, metavar="RECIPE")
    parser.add_argument("--limit", type=int, help="first images only; the figures say so")
    parser.add_argument("--stuff", type=int, default=8, help="number of leading classes of stuff")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/recipes.json"))
    args = parser.parse_args()
    path = resolve_path(args.config, "--config")
    config = load_config(parse_arguments(["--config", str(path)]))
    rows = {spec: {"model.attention": parse_recipe(spec)} for spec in args.recipes}
    plan = make_plan(config, path, {"recipes": Study("Recipes", rows, COLUMNS)}, limit=args.limit)
    row = next(iter(plan.rows.values()))
    images, of = plan.images(row), len(plan.datasets[row.dataset_key])
    found, _ = evaluate_plan(plan)
    parts = ("seconds", "mIoU", "stuff", "things", "per_class")
    results = {"config": args.config, "images": images, "of": of} | {part: {} for part in parts}
    for recipe in args.recipes:
        cells = {cell.column: found[cell.key] for cell in plan.cells if cell.row == recipe}
        classes = {column: list(cell["per_class"].values()) for column, cell in cells.items()}
        results["seconds"][recipe] = round(sum(cell["seconds"] for cell in cells.values()), 1)
        results["mIoU"][recipe] = {c: cell["mIoU"] for c, cell in cells.items()}
        results["stuff"][recipe] = {c: mean(ious[: args.stuff]) for c, ious in classes.items()}
        results["things"][recipe] = {c: mean(ious[args.stuff :]) for c, ious in classes.items()}
        results["per_class"][recipe] = {
            column: {name: iou and round(iou, 2) for name, iou in cell["per_class"].items()}
            for column, cell in cells.items()
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    partial = "" if images == of else f" (first {images} of {of}: not comparable)"
    print(f"mIoU on {args.config}, {images} images{partial}\n\n{render(results)}\n\n{args.out}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
