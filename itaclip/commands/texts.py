"""``itaclip texts``: writes auxiliary texts for classes with a language model."""

import argparse
import os
import sys
from pathlib import Path

from ..aux_text.backends import DEFAULT_MODEL, BackendError
from ..aux_text.prompts import KINDS
from ..errors import InputError
from ..runtime.files import printable

_EPILOG = """examples:
  itaclip texts --name-path configs/cls_mine.txt --kind definitions \\
      --out aux_texts/mine_definitions.txt --backend transformers
  itaclip texts --name-path configs/cls_mine.txt --kind synonyms --out mine_synonyms.txt \\
      --backend openai --base-url http://localhost:8000/v1 --model NAME

exit codes: 0 done; 1 the model or its server failed (finished texts are kept, the same command
continues); 2 bad input; 130 interrupted, likewise"""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "texts",
        help="writes auxiliary texts for classes with a language model",
        description="Write an auxiliary-text file for a class list with a language model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name-path", required=True, help="class-name file: a line per class, names by commas")
    add("--kind", required=True, choices=KINDS, help="what to write")
    add("--out", required=True, type=Path, help="file to write, lines `name >= text`")
    add("--background", action="store_true", help="class 0 is everything else: no text for it")
    add("--backend", required=True, choices=("transformers", "openai"), help="who answers")
    add(
        "--model",
        help=f"folder or Hub name (transformers; default {DEFAULT_MODEL}), "
        "or the endpoint's name for it (openai)",
    )
    add("--base-url", help="OpenAI-compatible endpoint; the key comes from OPENAI_API_KEY")
    add("--seed", type=int, default=0, help="seed of all answers (default 0)")
    add(
        "--temperature",
        type=_temperature,
        default=0.0,
        help="0 (default) takes the likeliest answer; 'none' leaves it to the endpoint",
    )
    add(
        "--retries",
        type=_at_least(int, 0),
        default=5,
        help="further attempts per class (default 5)",
    )
    add(
        "--timeout",
        type=_at_least(float, 0.001),
        default=120.0,
        help="seconds per answer (default 120)",
    )
    add(
        "--allow-download",
        action="store_true",
        help="fetch a model that is not in the local cache (many GB)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the file; 1 where the model or its server failed.

    Raises:
        InputError: whatever the user can mend.
    """
    try:
        _write(args)
    except BackendError as error:
        print(printable(f"error: {error}\n{_kept(args.out)}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        error.add_note(_kept(args.out))
        raise
    return 0


def _write(args: argparse.Namespace) -> None:
    from ..aux_text.backends import openai_backend, transformers_backend
    from ..aux_text.generate import finished_texts, generate
    from ..runtime.files import resolve_path
    from ..vocabulary import load_class_names

    path = resolve_path(args.name_path, "--name-path")
    class_names = load_class_names(path, args.background)
    if args.background and len(class_names) == 1:
        raise InputError(
            f"{path}: expected a class beside the background, but there is only one line."
        )
    if args.base_url and args.backend != "openai":
        raise InputError("--base-url: belongs to --backend openai only; leave it out.")
    if args.allow_download and args.backend != "transformers":
        raise InputError("--allow-download: belongs to --backend transformers only; leave it out.")
    if not args.out.parent.is_dir():
        raise InputError(f"--out: the folder {args.out.parent} does not exist; create it first.")
    if finished_texts(args.out, class_names, args.background, args.kind):
        print(f"{args.out} is complete; delete it to write it anew.")
        return
    if not os.access(args.out.parent, os.W_OK):
        raise InputError(f"--out: the folder {args.out.parent} may not be written to.")
    if args.backend == "transformers":
        model = args.model or DEFAULT_MODEL
        backend = transformers_backend(model, args.temperature, args.timeout, args.allow_download)
    else:
        model = args.model
        backend = openai_backend(model, args.base_url, args.temperature, args.timeout, args.retries)
    settings = {"backend": args.backend, "model": model, "temperature": args.temperature}
    count = generate(
        class_names,
        args.background,
        args.kind,
        args.out,
        backend,
        settings,
        seed=args.seed,
        retries=args.retries,
    )
    print(f"{args.out}: {count} {args.kind} written. Proofread them before use.")


def _kept(out: Path) -> str:
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        return f"Finished texts are kept in {partial}; the same command continues from there."
    return "Nothing was written."


def _temperature(value: str) -> float | None:
    return None if value.lower() == "none" else _at_least(float, 0)(value)


def _at_least(kind: type, least: float):
    def parse(value: str):
        try:
            number = kind(value)
        except ValueError:
            number = None
        if number is None or not least <= number < float("inf"):
            raise argparse.ArgumentTypeError(
                f"expected a number of at least {least}, but got {value!r}"
            )
        return number

    return parse
