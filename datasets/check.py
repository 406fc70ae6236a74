"""Check a config's data set before any model runs.

    python datasets/check.py --config configs/cfg_voc21.py
    python datasets/check.py --config configs/cfg_voc21.py --data-root /datasets/VOC2012

Prints one line per problem, with what is wrong and how to mend it. Exit code: 0 if there is no
error, 1 if there is one, 2 if the check itself could not be run.
"""

import argparse
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for a checkout without installation


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="the config to check")
    parser.add_argument("--data-root", type=Path, help="use this data_root instead of the config's")
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument(
        "--cheap", action="store_true", help="check names, counts and pairing only; read no pixel"
    )
    return parser.parse_args(argv)


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    if not args.config.is_file():
        return fail(f"{args.config}: there is no such config; check the path given with --config")
    warnings.simplefilter("ignore")
    from mmengine import Config

    import itaclip  # noqa: F401  (registers the data sets)
    from itaclip.data.check import build_dataset, check_cheap, check_places, load_samples
    from itaclip.data.mask_check import check_full
    from itaclip.data.problems import format_problems, has_errors

    try:
        cfg = Config.fromfile(args.config)
        dataset_cfg = cfg.test_dataloader.dataset
    except AttributeError:
        return fail(f"{args.config}: expected test_dataloader.dataset; see configs/ for examples")
    except Exception as error:  # a config is a program: anything can be wrong with it
        return fail(f"{args.config}: cannot be read: {_one_line(error)}; mend the config")
    if args.data_root is not None:
        dataset_cfg.data_root = str(args.data_root)

    problems = check_places(dataset_cfg)
    images = 0
    if not problems:
        try:
            dataset = build_dataset(dataset_cfg)
        except Exception as error:
            return fail(f"{args.config}: the data set cannot be built: {_one_line(error)}")
        problems = check_cheap(dataset)
        images = len(load_samples(dataset))
        if not args.cheap:
            problems += check_full(dataset, workers=args.workers, progress=sys.stderr.isatty())

    for line in format_problems(problems):
        print(line)
    errors = sum(problem.severity == "error" for problem in problems)
    what = "names and pairing" if args.cheap else "everything"
    print(
        f"{args.config.name}: {images} images, checked {what}: {errors} errors, "
        f"{len(problems) - errors} warnings"
    )
    return 1 if has_errors(problems) else 0


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
