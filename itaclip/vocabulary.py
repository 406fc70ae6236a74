"""Class-name and auxiliary-text files: parse, check, pair (pure Python, no torch).

Class-name file: one line per class, its names separated by commas; every name is a query, the first
one is the class's key. Auxiliary-text file: lines `name >= text`, each keyed by a class's name.

Legend: C classes, Q queries (all names of all classes, in file order).
"""

from __future__ import annotations

import difflib
import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .background_words import PLAIN, background_words, is_list_name
from .errors import InputError
from .runtime.files import read_text, resolve_path

ClassNames = tuple[tuple[str, ...], ...]
AuxiliaryEntries = dict[str, tuple[str, int]]

SEPARATOR = ">="  # between an auxiliary line's key and its text
# What separates names of one class, and classes in a line, on the keyboards of several scripts.
COMMAS = ",，、､﹑﹐،"
SEMICOLONS = ";；﹔؛"
_MAX_BYTES = 64 << 20  # of a file; a million classes have less
_MAX_CHARACTERS = 2000  # of a name or text; CLIP's 77 tokens are some hundred
_MAX_REPORTED = 12  # problems named one by one in a single error
_LOOSE = str.maketrans("", "", " -_'’")  # what a loose comparison of names leaves out
_JOINERS = "\u200c\u200d"  # format characters that some scripts need inside a word

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """Classes, their names and auxiliary texts, and where each of them was read.

    Args:
        class_names: Per class its names (queries); the first is the class's key.
        auxiliary_texts: Per class its auxiliary text, or None.
        background: Whether class 0 is "everything else". It then has no auxiliary text.
        name_sources: Per class the place of its names, such as `cls_voc21.txt:3`.
        auxiliary_sources: Per class the place of its auxiliary text, or None.
    """

    class_names: ClassNames
    auxiliary_texts: tuple[str | None, ...]
    background: bool
    name_sources: tuple[str, ...] = field(compare=False)
    auxiliary_sources: tuple[str | None, ...] = field(compare=False)

    def __post_init__(self) -> None:
        for what in ("auxiliary_texts", "name_sources", "auxiliary_sources"):
            if len(getattr(self, what)) != len(self.class_names):
                raise ValueError(
                    f"Expected one entry of {what} per class ({len(self.class_names)}), "
                    f"but got {len(getattr(self, what))}"
                )

    @classmethod
    def from_lists(
        cls,
        class_names: Sequence[str | Sequence[str]],
        auxiliary_texts: Mapping[str, str] | None = None,
        background: bool = False,
    ) -> Vocabulary:
        """Build a vocabulary from Python lists.

        Args:
            class_names: Per class one name, several names in one string (separated by commas, as
                in a file), or a list of names.
            auxiliary_texts: Texts by class name, one for every class that takes one.
            background: Whether class 0 is "everything else".

        Example:
            >>> Vocabulary.from_lists(['cat, kitten', ['dog', 'puppy']]).queries
            ('cat', 'kitten', 'dog', 'puppy')
        """
        source = "class_names"
        if isinstance(class_names, str) or not isinstance(class_names, Sequence):
            raise InputError(
                f"{source}: expected a list with one entry per class, but got {class_names!r}. "
                "Write [['cat', 'kitten'], 'dog'], for example."
            )
        lines = [_line_of_names(names, i, source) for i, names in enumerate(class_names)]
        sources = tuple(f"{source}[{i}]" for i in range(len(lines)))
        names = _parse_names(zip(sources, lines, strict=True), source, background)
        if auxiliary_texts is None:
            texts: tuple[str | None, ...] = (None,) * len(names)
            places: tuple[str | None, ...] = texts
        else:
            source = "auxiliary_texts"
            if not isinstance(auxiliary_texts, Mapping):
                raise InputError(
                    f"{source}: expected a dict of texts by class name, "
                    f"but got {type(auxiliary_texts).__name__}."
                )
            entries = [
                (f"{source}[{key!r}]", *_checked_entry(key, text, f"{source}[{key!r}]"))
                for key, text in auxiliary_texts.items()
            ]
            texts, places = _pair(_unique_entries(entries), names, sources, background, source)
        _report_shared_background_names(names, sources, background)
        return cls(names, texts, background, sources, places)

    @classmethod
    def empty(cls) -> Vocabulary:
        """No classes yet."""
        return cls((), (), False, (), ())

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @cached_property
    def queries(self) -> tuple[str, ...]:
        """All names of all classes, in order; length Q."""
        return tuple(name for names in self.class_names for name in names)

    @cached_property
    def query_classes(self) -> tuple[int, ...]:
        """The class index of every query; length Q."""
        return tuple(i for i, names in enumerate(self.class_names) for _ in names)

    @cached_property
    def first_names(self) -> tuple[str, ...]:
        """Per class its key; length C."""
        return tuple(names[0] for names in self.class_names)

    def source_of(self, class_index: int) -> str:
        """Where the class's names were read, as `file:line`."""
        return self.name_sources[class_index]

    def auxiliary_source_of(self, class_index: int) -> str | None:
        """Where the class's auxiliary text was read, as `file:line`; None without a text."""
        return self.auxiliary_sources[class_index]


def parse_class_names(lines: Iterable[str], source: str, background: bool = False) -> ClassNames:
    """Parse the lines of a class-name file.

    Args:
        lines: One line per class; names separated by commas. Blank lines at the end are ignored.
        source: The file's name, for messages.
        background: Whether class 0 is "everything else". Its word list may then contain another
            class's name, as some published lists do; elsewhere a repeated name is an error. Its
            line may name a list instead: `@generic`; see `itaclip.background_words`.

    Returns:
        Per class its names.

    Raises:
        InputError: If a line is blank or holds an empty or repeated name or a control character,
            or if there is no class.
    """
    return _parse_names(_numbered(lines, source), source, background)


def load_class_names(path: str | Path, background: bool = False) -> ClassNames:
    """Read and parse a class-name file; see `parse_class_names`."""
    return parse_class_names(_read_lines(path), str(path), background)


def parse_auxiliary_texts(lines: Iterable[str], source: str) -> AuxiliaryEntries:
    """Parse the lines of an auxiliary-text file.

    The text is what lies between the first `>=` and the line's end or a trailing second `>=`.

    Args:
        lines: Lines `name >= text`. Blank lines at the end are ignored.
        source: The file's name, for messages.

    Returns:
        Key → (text, line number), in file order.

    Raises:
        InputError: If a line is not of that form or a key comes twice.
    """
    return {
        key: (text, int(place.rpartition(":")[2]))
        for key, (text, place) in _parse_entries(lines, source).items()
    }


def load_auxiliary_texts(
    path: str | Path, class_names: ClassNames, background: bool = False
) -> tuple[str | None, ...]:
    """Read an auxiliary-text file and pair it with the classes.

    A key belongs to a class if it equals one of its names (letter case, spaces, hyphens,
    underscores and apostrophes aside), or lists several of them separated by commas.

    Returns:
        Per class its text; None for class 0 if it is the background.

    Raises:
        InputError: If a class has no entry or several, or an entry belongs to no class.
    """
    sources = tuple(f"class {i}" for i in range(len(class_names)))
    entries = _parse_entries(_read_lines(path), str(path))
    return _pair(entries, class_names, sources, background, str(path))[0]


def load_vocabulary(
    name_path: str | Path,
    auxiliary_text_path: str | Path | None = None,
    background: bool = False,
) -> Vocabulary:
    """Read a class-name file and, if given, its auxiliary-text file.

    Args:
        name_path: The class-name file; see `parse_class_names`.
        auxiliary_text_path: The auxiliary-text file; see `load_auxiliary_texts`. None = no texts.
        background: Whether class 0 is "everything else". It takes no auxiliary text.

    Raises:
        InputError: Naming file and line, what was expected and how to mend it.
    """
    names = load_class_names(name_path, background)
    # blank lines are allowed at the end only, so class i was read on line i + 1
    sources = tuple(f"{name_path}:{i + 1}" for i in range(len(names)))
    texts: tuple[str | None, ...] = (None,) * len(names)
    places: tuple[str | None, ...] = texts
    if auxiliary_text_path is not None:
        entries = _parse_entries(_read_lines(auxiliary_text_path), str(auxiliary_text_path))
        texts, places = _pair(entries, names, sources, background, str(auxiliary_text_path))
    _report_shared_background_names(names, sources, background)
    return Vocabulary(names, texts, background, sources, places)


def read_vocabulary(
    name_path: str | Path | None, auxiliary_text_path: str | Path | None, background: bool
) -> Vocabulary:
    """:func:`load_vocabulary` of a config's paths: absolute, or of this folder or the project."""
    if name_path is None:
        raise InputError("name_path: expected the path of a class-name file, but got None.")
    names, aux = resolve_path(name_path, "name_path"), auxiliary_text_path
    aux = None if aux is None else resolve_path(aux, "auxiliary_text_path")
    return load_vocabulary(names, aux, background)


def normalise_name(name: str) -> str:
    """The form in which names are compared: lower case, single spaces, accents composed (NFC)."""
    return unicodedata.normalize("NFC", " ".join(name.split()).lower())


def split_names(text: str) -> list[str]:
    """The names that commas separate, those of Chinese, Japanese and Arabic keyboards included."""
    return re.split(f"[{COMMAS}]", text)


def shortened(text: str, limit: int = 60) -> str:
    """A text for a message: at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


# ---- reading -----------------------------------------------------------------------------------


def _read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file with or without BOM and with any line ends."""
    return read_text(path, _MAX_BYTES).split("\n")


def _numbered(lines: Iterable[str], source: str) -> list[tuple[str, str]]:
    """Lines with their places `source:number`; BOM, line ends and blank last lines taken off."""
    if isinstance(lines, str):
        raise TypeError("lines must be an iterable of lines, not one string")
    stripped = [line.strip() for line in lines]
    if stripped:
        stripped[0] = stripped[0].removeprefix("\ufeff").strip()
    while stripped and not stripped[-1]:
        stripped.pop()
    for number, line in enumerate(stripped, start=1):
        if not line:
            raise InputError(
                f"{source}:{number}: this line is blank, but every line up to the last must hold "
                "an entry. Delete the blank line."
            )
    return [(f"{source}:{number}", line) for number, line in enumerate(stripped, start=1)]


def _refuse_oversized(text: str, place: str) -> None:
    if len(text) > _MAX_CHARACTERS:
        raise InputError(
            f"{place}: {shortened(text)!r} has {len(text)} characters, but CLIP reads at most 77 "
            f"tokens, and {_MAX_CHARACTERS} characters never fit. Shorten it."
        )


def _refuse_control_characters(text: str, place: str, allowed: str = "") -> None:
    if text.isascii() and text.isprintable():
        return
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in allowed + _JOINERS:
            label = unicodedata.name(character, "a control character")
            raise InputError(
                f"{place}: the text holds the invisible character U+{ord(character):04X} "
                f"({label}). Delete it or put a space in its place."
            )


# ---- class names -------------------------------------------------------------------------------


def _line_of_names(names: str | Sequence[str], index: int, source: str) -> str:
    """One class given in Python, as the line a file would hold."""
    place = f"{source}[{index}]"
    if isinstance(names, str):
        return names.strip()
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{place}: expected a class name or a list of its names, but got {names!r}."
        )
    for name in names:
        if "," in name:
            raise InputError(
                f"{place}: the name {name!r} holds a comma, which separates names. "
                "Give its parts as names of their own."
            )
    return ", ".join(names)


def _with_listed_words(lines: list[tuple[str, str]], background: bool) -> list[tuple[str, str]]:
    """The words of class 0 for the name of their list; see :mod:`itaclip.background_words`."""
    for index, (place, line) in enumerate(lines):
        elsewhere = index > 0 or not background
        if not is_list_name(line.strip()) or (line.strip() == PLAIN and elsewhere):
            continue  # a class may be called plain
        if elsewhere:
            raise InputError(
                f"{place}: {line.strip()!r} names a list of background words, which only class 0 "
                "takes, with background=True."
            )
        taken = {normalise_name(name) for _, other in lines[1:] for name in other.split(",")}
        lines[0] = (place, ", ".join(background_words(line.strip(), place, taken)))
    return lines


def _parse_names(
    lines: Iterable[tuple[str, str]], source: str, background: bool
) -> tuple[tuple[str, ...], ...]:
    """Names per class from (place, line) pairs."""
    lines = _with_listed_words(list(lines), background)
    class_names: list[tuple[str, ...]] = []
    first_seen: dict[str, tuple[int, str]] = {}  # compared form → class, place
    for index, (place, line) in enumerate(lines):
        _refuse_control_characters(line, place)
        if SEPARATOR in line:
            raise InputError(
                f"{place}: expected class names, but the line holds '{SEPARATOR}', which marks an "
                "auxiliary text. Give that file as auxiliary_text_path, not as name_path."
            )
        names = tuple(" ".join(name.split()) for name in split_names(line))
        for position, name in enumerate(names, start=1):
            if not name:
                raise InputError(
                    f"{place}: name {position} of {len(names)} is empty. Expected names separated "
                    "by single commas; delete the comma too many."
                )
            _refuse_oversized(name, place)
            compared = normalise_name(name)
            other, other_place = first_seen.get(compared, (None, ""))
            if other == index:
                raise InputError(
                    f"{place}: the name {name!r} comes twice in this class (letter case and "
                    "spacing do not tell names apart). Every name is a query of its own, so a "
                    "repeated one only distorts the softmax; delete one of the two."
                )
            if other is not None and not (background and other == 0):
                hint = (
                    " (Only the word list of a background class may share a name with another "
                    "class: set background=True if class 0 is one.)"
                    if other == 0
                    else ""
                )
                raise InputError(
                    f"{place}: the name {name!r} also belongs to class {other} ({other_place}). "
                    "Two classes with one name always score alike there, and the later one is "
                    f"never found; delete or rename one of them.{hint}"
                )
            first_seen[compared] = (index, place)
        class_names.append(names)
    if not class_names:
        raise InputError(
            f"{source}: no class found. Expected at least one class, one per line, "
            "with its names separated by commas."
        )
    return tuple(class_names)


def _report_shared_background_names(
    class_names: ClassNames, sources: Sequence[str], background: bool
) -> None:
    if not background:
        return
    words = {normalise_name(name) for name in class_names[0]}
    for names, source in zip(class_names[1:], sources[1:], strict=True):
        for name in names:
            if normalise_name(name) in words:
                logger.warning(
                    "%s: the name '%s' is also a word of the background class (%s). Where no "
                    "auxiliary text tells them apart, its pixels go to the background.",
                    source,
                    name,
                    sources[0],
                )


# ---- auxiliary texts ---------------------------------------------------------------------------


def _parse_entries(lines: Iterable[str], source: str) -> dict[str, tuple[str, str]]:
    """Key → (text, place `file:line`)."""
    entries = []
    for place, line in _numbered(lines, source):
        key, separator, rest = line.partition(SEPARATOR)
        text, _, tail = rest.partition(SEPARATOR)
        if not separator:
            raise InputError(
                f"{place}: expected 'name {SEPARATOR} text', but there is no '{SEPARATOR}' in "
                f"{shortened(line)!r}."
            )
        if tail.strip():
            raise InputError(
                f"{place}: '{SEPARATOR}' comes more than once. Expected "
                f"'name {SEPARATOR} text'; word the text without it, and write one entry per line."
            )
        entries.append((place, *_checked_entry(key, text, place)))
    if not entries:
        raise InputError(f"{source}: no entry found. Expected lines 'name {SEPARATOR} text'.")
    return _unique_entries(entries)


def _checked_entry(key: object, text: object, place: str) -> tuple[str, str]:
    """Key and text with single spaces; neither may be empty."""
    if not isinstance(key, str) or not isinstance(text, str):
        raise InputError(
            f"{place}: expected a class name and its text, but got {key!r} and {text!r}."
        )
    for part in (key, text):
        _refuse_oversized(part, place)
        _refuse_control_characters(part, place, allowed="\t")
    key, text = " ".join(key.split()), " ".join(text.split())
    for value, what in ((key, "class name is missing before"), (text, "text is missing after")):
        if not value:
            raise InputError(
                f"{place}: the {what} '{SEPARATOR}'. Expected 'name {SEPARATOR} text'."
            )
    return key, text


def _unique_entries(entries: Iterable[tuple[str, str, str]]) -> dict[str, tuple[str, str]]:
    """(place, key, text) → key → (text, place); a key that comes twice is an error."""
    unique: dict[str, tuple[str, str]] = {}
    first_seen: dict[str, str] = {}
    for place, key, text in entries:
        other = first_seen.setdefault(normalise_name(key), place)
        if other != place:
            raise InputError(
                f"{place}: the key {key!r} was already given ({other}). "
                "Expected one text per class; delete one of the two."
            )
        unique[key] = (text, place)
    return unique


class _NameIndex:
    """Looks up the class that a key of an auxiliary text means."""

    def __init__(self, class_names: ClassNames, background: bool) -> None:
        self._exact: dict[str, set[int]] = {}
        self._loose: dict[str, set[int]] = {}
        self._background = background
        for index, names in enumerate(class_names):
            for name in names:
                compared = normalise_name(name)
                self._exact.setdefault(compared, set()).add(index)
                self._loose.setdefault(compared.translate(_LOOSE), set()).add(index)

    def find(self, key: str) -> int | None:
        """The one class that the key names, or None."""
        found = self._find_name(key)
        if found is None and "," in key:
            parts = {self._find_name(part) for part in split_names(key) if part.strip()}
            found = parts.pop() if len(parts) == 1 else None
        return found

    def _find_name(self, name: str) -> int | None:
        compared = normalise_name(name)
        for table, form in (
            (self._exact, compared),
            (self._loose, compared.translate(_LOOSE)),
        ):
            classes = table.get(form, set())
            if self._background and len(classes) > 1:
                classes = classes - {0}  # the background takes no text: the other class is meant
            if len(classes) == 1:
                return next(iter(classes))
        return None


def _pair(
    entries: Mapping[str, tuple[str, str]],
    class_names: ClassNames,
    name_sources: Sequence[str],
    background: bool,
    source: str,
) -> tuple[tuple[str | None, ...], tuple[str | None, ...]]:
    """Texts and their places, in class order."""
    index = _NameIndex(class_names, background)
    texts: list[str | None] = [None] * len(class_names)
    places: list[str | None] = [None] * len(class_names)
    problems: list[str] = []
    unknown: list[tuple[str, str]] = []
    for key, (text, place) in entries.items():
        found = index.find(key)
        if found is None:
            unknown.append((key, place))
        elif background and found == 0:
            problems.append(
                f"{place}: {key!r} names the background class ({name_sources[0]}), which takes no "
                "auxiliary text. Delete the line (or set background=False if class 0 is a class "
                "like the others)."
            )
        elif texts[found] is not None:
            problems.append(
                f"{place}: {key!r} names class {class_names[found][0]!r}, which already has a text "
                f"({places[found]}). Delete one of the two."
            )
        else:
            texts[found], places[found] = text, place
    first = 1 if background else 0
    missing = [i for i in range(first, len(class_names)) if texts[i] is None]
    problems += _mismatches(unknown, missing, class_names, name_sources, source)
    if problems:
        shown = problems[:_MAX_REPORTED]
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more.")
        expected = f"{len(class_names) - first} classes" + (
            " (all but the background)" if background else ""
        )
        raise InputError(
            f"{source}: expected one text for each of {expected}, "
            f"but got {len(entries)} entries that do not pair:\n  " + "\n  ".join(shown)
        )
    return tuple(texts), tuple(places)


def _mismatches(
    unknown: list[tuple[str, str]],
    missing: list[int],
    class_names: ClassNames,
    name_sources: Sequence[str],
    source: str,
) -> list[str]:
    """One sentence per entry that names no class and per class without entry."""
    unclaimed = list(missing)
    meant: dict[str, int] = {}  # unknown key → class that it most likely means
    for key, _ in unknown[:_MAX_REPORTED]:
        candidates = {normalise_name(name): i for i in unclaimed for name in class_names[i]}
        close = difflib.get_close_matches(normalise_name(key), candidates, n=1, cutoff=0.7)
        if close:
            meant[key] = candidates[close[0]]
            unclaimed.remove(meant[key])
    others = [key for key, _ in unknown if key not in meant]
    guessed = dict(zip(others, unclaimed, strict=True)) if len(others) == len(unclaimed) else {}

    problems: list[str] = []
    for position, (key, place) in enumerate(unknown):
        target = meant.get(key, guessed.get(key))
        if target is not None:
            name, where = class_names[target][0], name_sources[target]
            hint = (
                f"Change the key to {name!r} ({where})."
                if key in meant
                else f"Class {name!r} ({where}) has no text: if it is meant, change the key to "
                f"{name!r}."
            )
        elif position < _MAX_REPORTED:
            names = {normalise_name(name): name for names in class_names for name in names}
            near = difflib.get_close_matches(normalise_name(key), names, n=1, cutoff=0.0)
            nearest = f" (the nearest one is {names[near[0]]!r})" if near else ""
            hint = f"Change the key to the name of its class{nearest}, or delete the line."
        else:
            hint = ""  # only counted, never shown
        problems.append(f"{place}: the key {key!r} is no class name. {hint}")
    claimed = {*meant.values(), *guessed.values()}
    for i in missing:
        if i not in claimed:
            name = class_names[i][0]
            problems.append(
                f"{name_sources[i]}: class {name!r} has no text. "
                f"Add a line '{name} {SEPARATOR} ...' to {source}."
            )
    return problems
