"""One table over recipes and modules, all on the same images.

    python tools/compare_recipes.py --config configs/cfg_storybook.py

Every recipe is evaluated alone and with image engineering (+IE), auxiliary text (+text), refinement
(+PAMR), and all three, with the config's values of λ (0.75 where it is off), α and PAMR. Windows
are encoded once per recipe and set of views; the cells share these features.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS, MODELS
from tqdm import tqdm

from itaclip.evaluation import run_tool
from itaclip.paths import resolve_path
from itaclip.postprocess import close_labels, label_map
from itaclip.recipes import RECIPES
from itaclip.views import make_views

DEFAULT = ["clip", "maskclip", "sclip", "clearclip", "naclip", "itaclip", "itaclip_gaussian"]
# λ of image engineering where the config has it off.
LAMBDA = 0.75
# Column: image engineering, auxiliary text, PAMR.
COLUMNS = {
    "alone": (False, False, False),
    "+IE": (True, False, False),
    "+text": (False, True, False),
    "+PAMR": (False, False, True),
    "all": (True, True, True),
}


def evaluate_recipe(config: Config, recipe: str, dataset, limit: int) -> dict[str, torch.Tensor]:
    """IoU of every class (C,), 0-100, per column; NaN where a class never occurs."""
    settings = dict(config.model, attention=recipe)
    settings["image_engineering_weight"] = settings.get("image_engineering_weight") or LAMBDA
    model = MODELS.build(settings).eval()
    views = {False: make_views(None), True: model.views}
    pamr, alpha = model.pamr, model.aux_text_weight
    texts = {}
    for with_text in (False, True):
        model.aux_text_weight = alpha if with_text else 0.0
        model.set_vocabulary(model.vocabulary)
        texts[with_text] = model.text_features
    classes = len(dataset.metainfo["classes"])
    areas = {column: torch.zeros(3, classes, dtype=torch.float64) for column in COLUMNS}
    for index in tqdm(range(limit), desc=recipe):
        sample = dataset[index]
        batch = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
        image = model.data_preprocessor(batch)["inputs"][0]
        truth = sample["data_samples"].gt_sem_seg.data[0]
        features = {}
        for with_views, own in views.items():
            model.views = own
            features[with_views] = model.extract_feat(image)
        for column, (with_views, with_text, with_pamr) in COLUMNS.items():
            model.text_features, model.pamr = texts[with_text], pamr if with_pamr else None
            logits = model.query_logits(features[with_views], tuple(truth.shape))
            labels = label_map(model.scores(logits, image), model.prob_thd)
            if model.label_closing:
                labels = close_labels(labels, model.label_closing)
            found, union, _, wanted = IoUMetric.intersect_and_union(labels, truth, classes, 255)
            areas[column] += torch.stack([found, union, wanted])
    return {column: 100 * area[0] / area[1] for column, area in areas.items()}


def render(results: dict) -> str:
    """The Markdown table of mIoU."""
    lines = ["| recipe | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * len(COLUMNS)]
    for recipe, cells in results["mIoU"].items():
        lines.append(f"| {recipe} | " + " | ".join(f"{cells[c]:.1f}" for c in COLUMNS) + " |")
    return "\n".join(lines)


def mean(values: torch.Tensor, classes: slice = slice(None)) -> float:
    return round(float(values[classes].nanmean()), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/cfg_storybook.py")
    parser.add_argument("--recipes", nargs="+", default=DEFAULT, choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--limit", type=int, help="first images only; the figures say so")
    parser.add_argument("--stuff", type=int, default=8, help="number of leading classes of stuff")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/recipes.json"))
    args = parser.parse_args()
    config = Config.fromfile(resolve_path(args.config, "--config"))
    init_default_scope(config.get("default_scope", "mmseg"))
    dataset = DATASETS.build(config.test_dataloader.dataset)
    limit = min(args.limit or len(dataset), len(dataset))
    results = {"config": args.config, "images": limit, "of": len(dataset), "seconds": {}}
    results |= {"mIoU": {}, "stuff": {}, "things": {}, "per_class": {}}
    for recipe in args.recipes:
        start = time.perf_counter()
        ious = evaluate_recipe(config, recipe, dataset, limit)
        results["seconds"][recipe] = round(time.perf_counter() - start, 1)
        results["mIoU"][recipe] = {c: mean(iou) for c, iou in ious.items()}
        results["stuff"][recipe] = {c: mean(iou, slice(args.stuff)) for c, iou in ious.items()}
        results["things"][recipe] = {
            c: mean(iou, slice(args.stuff, None)) for c, iou in ious.items()
        }
        names = dataset.metainfo["classes"]
        results["per_class"][recipe] = {
            c: dict(zip(names, [round(float(v), 2) for v in iou], strict=True))
            for c, iou in ious.items()
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    partial = "" if limit == len(dataset) else f" (first {limit} of {len(dataset)}: not comparable)"
    print(f"mIoU on {args.config}, {limit} images{partial}\n\n{render(results)}\n\n{args.out}")


if __name__ == "__main__":
    sys.exit(run_tool(main))
