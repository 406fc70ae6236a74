"""What is taken off a language model's answer, and what the rest must fulfil."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection
from functools import cache

from ..vocabulary import SEPARATOR, normalise_name

MAX_DEFINITION_WORDS = 49  # a definition is one clause under 50 words
MAX_SYNONYM_WORDS = 3  # a synonym is one word or a short term
CONTEXT_LENGTH = 77  # tokens that CLIP reads

_MARKS = "\"'`*_“”‘’«»"
_LABEL = re.compile(r"(definition|synonym|answer|description|clause)s?\s*:\s*", re.IGNORECASE)
_BULLET = re.compile(r"([-*•]|\d+[.)])\s+")
_ARTICLE = re.compile(r"(an?|the)\s+(?=\S)", re.IGNORECASE)
_REFUSAL = re.compile(
    r"(i'm sorry|i am sorry|sorry,|i can't|i cannot|i can not|as an ai|i'm unable|i am unable)\b",
    re.IGNORECASE,
)


class UnusableAnswer(ValueError):
    """The answer breaks a rule; the message says which, in words the model can act on."""


def clean_answer(answer: str, name: str) -> str:
    """Take off what models put around an answer: preamble, label, quotes, article, full stop.

    Args:
        answer: As the model gave it.
        name: The class's key; "name:" and "name is" are taken off the start.

    Raises:
        UnusableAnswer: If more than one line is left.
    """
    lines = [line.strip() for line in answer.replace("’", "'").splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    if len(lines) > 1:
        raise UnusableAnswer(f"it has {len(lines)} lines, but one is wanted")
    text = " ".join(lines[0].split()) if lines else ""
    lead = re.compile(
        rf"(?:(?:an?|the)\s+)?{re.escape(name)}[{_MARKS}]*\s*"
        r"(?::|\b(?:is|are|means|refers to)\b)\s*",
        re.IGNORECASE,
    )
    before = None
    while text != before:
        before = text
        text = text.strip(_MARKS + " ").removesuffix(".").rstrip()
        for pattern in (_BULLET, _LABEL, lead, _ARTICLE):
            text = text[match.end() :] if (match := pattern.match(text)) else text
    return text


def check_answer(
    text: str, kind: str, name: str, other_names: Collection[str] = frozenset()
) -> None:
    """Check a cleaned answer.

    Args:
        text: From ``clean_answer``.
        kind: ``'definitions'`` or ``'synonyms'``.
        name: The class's key.
        other_names: Normalised names of the other classes, which no synonym may take.

    Raises:
        UnusableAnswer: Naming the rule that is broken.
    """
    if not text:
        raise UnusableAnswer("it is empty")
    if SEPARATOR in text:
        raise UnusableAnswer(f"it holds '{SEPARATOR}', which separates name and text in the file")
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text):
        raise UnusableAnswer("it holds an invisible control character")
    if not any(c.isalpha() for c in text):
        raise UnusableAnswer("it holds no word")
    if _REFUSAL.match(text):
        raise UnusableAnswer("it is a refusal")
    words = len(text.split())
    if kind == "definitions":
        if words > MAX_DEFINITION_WORDS:
            raise UnusableAnswer(f"it has {words} words, but fewer than 50 are wanted")
        if words < 2:
            raise UnusableAnswer("it is one word, but a descriptive clause is wanted")
    else:
        if words > MAX_SYNONYM_WORDS:
            raise UnusableAnswer(
                f"it has {words} words, but at most {MAX_SYNONYM_WORDS} are wanted"
            )
        if re.search(r"[,;:/()]|\bor\b", text):
            raise UnusableAnswer("it is a list or holds an explanation, but one term is wanted")
        if normalise_name(text) == normalise_name(name):
            raise UnusableAnswer("it repeats the name itself")
        if normalise_name(text) in other_names:
            raise UnusableAnswer("it is the name of another class")
    tokens = prompt_tokens(text)
    if tokens > CONTEXT_LENGTH:
        raise UnusableAnswer(
            f"it takes {tokens} tokens inside the longest prompt, but CLIP reads at most "
            f"{CONTEXT_LENGTH}; it must be shorter"
        )


def prompt_tokens(text: str) -> int:
    """Tokens of the text in the longest ImageNet template, start and end included."""
    tokenize, template = _longest_template()
    return len(tokenize(template.format(text)))


@cache
def _longest_template() -> tuple[Callable[[str], list[int]], str]:
    from ..clip_model.tokenizers import openai_tokenizer
    from ..text_encoder import imagenet_templates

    tokenize = openai_tokenizer()
    return tokenize, max(imagenet_templates(), key=lambda t: len(tokenize(t.format("cat"))))
