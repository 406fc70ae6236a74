"""Words as people give them - lists, or a line such as "cat; sofa, couch" - as a vocabulary."""

import os
import re
from collections.abc import Mapping, Sequence

from ..background_words import background_words, is_list_name
from ..errors import InputError
from ..vocabulary import COMMAS, SEMICOLONS, Vocabulary, normalise_name, split_names

BACKGROUND = "background"
_FILES = (".txt", ".csv", ".tsv", ".json", ".yaml", ".yml", ".py")


def parse_classes(
    classes: str | Sequence[str | Sequence[str]], background: bool = False
) -> list[list[str]]:
    """The names of every class.

    Args:
        classes: a list with a name or a list of names for every class; or one string, in which
            ``;`` or a line's end separates classes and ``,`` the names of one class; those of
            Chinese, Japanese and Arabic keyboards do so too.
        background: whether there will be a background class too.

    Raises:
        InputError: no class, a name that is no string, or a string that seems to take ``,`` for
            ``;``: one class alone would cover every picture.
    """
    if isinstance(classes, str):
        _refuse_file(classes)
        parts = [part.strip() for part in re.split(f"[{SEMICOLONS}\n]", classes) if part.strip()]
        found = [[name.strip() for name in split_names(part)] for part in parts]
        if len(found) == 1 and len(found[0]) > 1 and not background:
            raise InputError(
                f"classes: {classes!r} is one class with {len(found[0])} names, which would cover "
                f"the whole picture; separate classes by ';', such as {'; '.join(found[0])!r}."
            )
    elif isinstance(classes, Sequence):
        found = []
        for index, names in enumerate(classes):
            names = [names] if isinstance(names, str) else names
            if not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
                raise InputError(
                    f"classes[{index}]: expected a name or a list of names, but got {names!r}."
                )
            found.append([part.strip() for name in names for part in split_names(name)])
    else:
        raise InputError(
            "classes: expected a list of names, or a string such as 'cat; sofa, couch', but got "
            f"{classes!r}."
        )
    if not found:
        raise InputError("classes: expected at least one class, but got none.")
    return found


def _refuse_file(classes: str) -> None:
    """A file's name where classes are expected would be one class that covers everything."""
    suffix = os.path.splitext(classes.strip())[1].lower()
    if suffix in _FILES or (os.path.sep in classes and os.path.isfile(classes)):
        raise InputError(
            f"classes: {classes!r} is the name of a file, not of classes; give it as --class-file, "
            "or in Python itaclip.vocabulary.load_class_names(…)."
        )


def parse_background(
    background: bool | str | Sequence[str] | None, classes: Sequence[Sequence[str]]
) -> list[str] | None:
    """The words of the background class; None without one.

    Args:
        background: None or False; words (a list, or a string with commas); the name of a list
            (:mod:`itaclip.background_words`), such as ``'@generic'``; or True: ``'@surroundings'``.
        classes: the other classes' names, which are left out of a list's words.
    """
    if background is None or background is False:
        return None
    if background is True:
        background = "@surroundings"
    if isinstance(background, str) and is_list_name(background.strip()):
        taken = {normalise_name(name) for names in classes for name in names}
        return list(background_words(background.strip(), "background", taken))
    if isinstance(background, str):
        words = [word.strip() for word in re.split(f"[{COMMAS}{SEMICOLONS}\n]", background)]
    elif isinstance(background, Sequence) and all(isinstance(w, str) for w in background):
        words = [part.strip() for word in background for part in split_names(word)]
    else:
        raise InputError(
            f"background: expected None, True or a list of words, but got {background!r}."
        )
    words = [word for word in words if word]
    if not words:
        raise InputError("background: expected at least one word, but got none; leave it out.")
    return words


def make_vocabulary(
    classes: str | Sequence[str | Sequence[str]],
    background: bool | str | Sequence[str] | None = None,
    auxiliary_texts: Mapping[str, str] | None = None,
) -> Vocabulary:
    """A vocabulary; with a background, its words are class 0 and the others count from 1.

    Args:
        classes: see :func:`parse_classes`.
        background: see :func:`parse_background`.
        auxiliary_texts: a text for every class but the background, by one of its names.

    Raises:
        InputError: repeated or empty names, texts that do not pair, or what the two functions say.
    """
    names = parse_classes(classes, background not in (None, False))
    words = parse_background(background, names)
    if words is None:
        return Vocabulary.from_lists(names, auxiliary_texts)
    if any(normalise_name(own[0]) == BACKGROUND for own in names):
        raise InputError(
            f"classes: {BACKGROUND!r} is already the class of the background words; rename the "
            "other one, or leave one of the two out."
        )
    return Vocabulary.from_lists([words, *names], auxiliary_texts, background=True)
