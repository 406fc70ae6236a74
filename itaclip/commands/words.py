"""``itaclip words``: what a vocabulary does on one's own pictures, and what other words would."""

import argparse
import json
import sys
from pathlib import Path

from ..errors import InputError
from ..predict.audit import WordList, audit, html_page, tables
from ..predict.images import find_images
from ..predict.words import BACKGROUND, make_vocabulary
from ..runtime.files import write_whole
from ..runtime.outputs import check_outputs
from ..vocabulary import Vocabulary, load_auxiliary_texts, load_vocabulary
from .options import add_model_options, add_word_options, load_model, words

_EXAMPLES = """examples:
  itaclip words photos --classes "cat; sofa, couch" --background @generic
  itaclip words photos --class-file names.txt --texts definitions.txt --out words
  itaclip words photos --config configs/cfg_voc21.py --masks masks --against mine.txt

It prints tables: which names will be confused, which never win, what each background word is good
for, what plain names would change. --out writes them as a page with pictures and as JSON too. With
masks, every word list gets its mIoU."""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "words",
        help="audits a vocabulary on your own pictures",
        description="Audits a vocabulary on your own pictures; masks are not needed.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders or glob patterns in quotes"
    )
    add_word_options(parser)
    group = parser.add_argument_group("audit")
    group.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="FILE",
        help="another class-name file for the same classes, to be compared; may be repeated",
    )
    group.add_argument(
        "--texts",
        action="append",
        default=[],
        metavar="FILE",
        help="auxiliary texts (lines 'name >= text') for the classes, to be compared; may be "
        "repeated",
    )
    group.add_argument(
        "--aux-text-weight", type=float, default=0.1, metavar="0-1", help="of --texts; default: 0.1"
    )
    group.add_argument(
        "--masks",
        metavar="FOLDER",
        help="masks of the same names (.png) whose values are class numbers; 255 is ignored",
    )
    group.add_argument(
        "--out", metavar="FOLDER", help="for words.html, with pictures, and words.json"
    )
    add_model_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    images = list(dict.fromkeys(path for given in args.images for path in find_images(given)))
    masks = None if args.masks is None else _masks(images, Path(args.masks).expanduser())
    targets = []
    if args.out is not None:
        folder = Path(args.out).expanduser()
        targets = [folder / "words.html", folder / "words.json"]
        read = [args.class_file, args.config, *args.against, *args.texts, *(masks or {}).values()]
        check_outputs(targets, images, [path for path in read if path is not None])
    asked = words(args)
    model = load_model(args)
    if asked["classes"] is None:
        vocabulary = model.segmentor.vocabulary
    else:
        vocabulary = make_vocabulary(**asked)
    found = audit(
        model,
        images,
        WordList("as given", vocabulary),
        _others(vocabulary, args),
        masks,
        progress=lambda line: print(line, file=sys.stderr),
    )
    sys.stdout.write(tables(found))
    if targets:
        page, data = targets
        write_whole(page, html_page(found, f"Words on {len(images)} pictures"))
        write_whole(data, json.dumps(found.as_dict(), indent=1, ensure_ascii=False) + "\n")
        print(page)


def _masks(images: list[Path], folder: Path) -> dict[str, Path]:
    """Picture → its mask."""
    found = {str(image): folder / f"{image.stem}.png" for image in images}
    missing = [path for path in found.values() if not path.is_file()]
    if missing:
        raise InputError(
            f"--masks: {missing[0]} does not exist ({len(missing)} of {len(images)} pictures have "
            "no mask); add it, or leave the pictures out."
        )
    return found


def _others(vocabulary: Vocabulary, args: argparse.Namespace) -> list[WordList]:
    """Plain names, and the lists of the command line."""
    names = vocabulary.first_names
    first = BACKGROUND if vocabulary.background else names[0]
    plain = Vocabulary.from_lists([[first], *([n] for n in names[1:])], None, vocabulary.background)
    lists = []
    if plain.class_names != vocabulary.class_names:
        lists.append(WordList("plain names", plain, 0.0))
    for path in args.against:
        lists.append(WordList(path, load_vocabulary(path, background=vocabulary.background)))
    for path in args.texts:
        texts = load_auxiliary_texts(path, vocabulary.class_names, vocabulary.background)
        keyed = {n: text for n, text in zip(names, texts, strict=True) if text is not None}
        own = Vocabulary.from_lists(vocabulary.class_names, keyed, vocabulary.background)
        lists.append(WordList(path, own, args.aux_text_weight))
    return lists
