"""Everything that is said to the language model.

Change the wording here; a run that was begun with another wording is not continued silently.
"""

from __future__ import annotations

from collections.abc import Sequence

KINDS = ("definitions", "synonyms")
_MAX_LISTED = 200  # of other classes in one prompt

DEFINITION = """\
You help an image-recognition model that compares photographs with short texts.
Describe what "{name}" looks like in a photograph.

Rules:
- Write one clause of 10 to 20 words (always fewer than 50) that completes "a photo of a ...".
- Name what can be seen: shape, parts, material, colour, usual surroundings.
- Start with a noun phrase, without an article and without repeating "{name}".
- Plain words on a single line: no list, no quotation marks, no full stop.
- Answer with the clause alone.{alternatives}{others}"""

SYNONYM = """\
You help an image-recognition model that compares photographs with short texts.
Give the best synonym for "{name}", as a visible thing or surface in a photograph.

Rules:
- Write one word or a short term of at most three words that completes "a photo of a ...".
- It must mean the same as "{name}" and must differ from it.
- It must not be the name of another class.
- No article, no list, no explanation, no quotation marks, no full stop.
- Answer with the synonym alone.{alternatives}{others}"""

ALTERNATIVES = '\n\n"{name}" is also called: {names}.'
OTHERS = "\n\nThe other classes, which show which meaning is meant: {names}."
RETRY = "This answer cannot be used: {reason}. Follow the rules and answer again."

_PROMPTS = dict(zip(KINDS, (DEFINITION, SYNONYM), strict=True))


def first_message(kind: str, names: Sequence[str], others: Sequence[str]) -> str:
    """The question for one class.

    Args:
        kind: One of ``KINDS``.
        names: The class's names, its key first.
        others: The keys of the other classes.
    """
    name = names[0]
    alternatives = ALTERNATIVES.format(name=name, names=", ".join(names[1:])) if names[1:] else ""
    listed = OTHERS.format(names=", ".join(others)) if 0 < len(others) <= _MAX_LISTED else ""
    return _PROMPTS[kind].format(name=name, alternatives=alternatives, others=listed)


def wording(kind: str) -> str:
    """All fixed text that a run of this kind may say."""
    return "\n".join((_PROMPTS[kind], ALTERNATIVES, OTHERS, RETRY, str(_MAX_LISTED)))
