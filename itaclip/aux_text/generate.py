"""One answer per class, asked again until it is valid."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tqdm import tqdm

from ..errors import InputError
from ..vocabulary import ClassNames, load_auxiliary_texts, normalise_name
from .answers import UnusableAnswer, check_answer, clean_answer
from .backends import Backend, BackendError
from .journal import Journal
from .prompts import RETRY, first_message, wording


def generate(
    class_names: ClassNames,
    background: bool,
    kind: str,
    out: Path,
    backend: Backend,
    settings: dict[str, object],
    seed: int = 0,
    retries: int = 5,
) -> int:
    """Write an auxiliary-text file; continue an interrupted run.

    Args:
        class_names: Per class its names.
        background: Whether class 0 takes no text.
        kind: ``'definitions'`` or ``'synonyms'``.
        out: The file to write.
        backend: Answers a conversation.
        settings: What else the answers depend on (backend, model, temperature).
        seed: With the class and the attempt it gives the seed of every answer, so that an answer
            does not depend on what was asked before.
        retries: Further attempts per class after an unusable answer.

    Returns:
        How many texts were newly generated.

    Raises:
        InputError: If an interrupted run does not fit.
        BackendError: If the backend fails or a class got no usable answer; finished answers are
            kept for the next run.
    """
    first = 1 if background else 0
    keys = [names[0] for names in class_names]
    settings = {
        "kind": kind,
        "seed": seed,
        **settings,
        "prompts": hashlib.sha256(wording(kind).encode()).hexdigest()[:16],
        "classes": hashlib.sha256(repr(class_names[first:]).encode()).hexdigest()[:16],
    }
    journal = Journal(out, settings)
    todo = [i for i in range(first, len(keys)) if keys[i] not in journal.answers]
    if len(todo) < len(keys) - first:
        print(f"{len(keys) - first - len(todo)} texts kept from {journal.path}", flush=True)
    owners = {normalise_name(n): i for i in range(first, len(keys)) for n in class_names[i]}
    failures: list[str] = []
    try:
        for i in tqdm(todo, desc=kind, unit="class", disable=None):
            others = keys[first:i] + keys[i + 1 :]
            taken = {name for name, owner in owners.items() if owner != i}
            prompt = first_message(kind, class_names[i], others)
            try:
                text = _ask_until_valid(backend, prompt, kind, keys[i], taken, seed, retries)
            except UnusableAnswer as error:
                failures.append(f"{keys[i]}: {error}")
            else:
                journal.add(keys[i], text)
        if failures:
            raise BackendError(
                f"{len(failures)} of {len(keys) - first} classes got no usable answer in "
                f"{retries + 1} attempts:\n  " + "\n  ".join(failures)
            )
        journal.finish(out, keys[first:])
    finally:
        journal.close()
    load_auxiliary_texts(out, class_names, background)  # what was written pairs with the classes
    return len(todo)


def finished_texts(out: Path, class_names: ClassNames, background: bool, kind: str) -> bool:
    """Whether the output file exists and is complete.

    Raises:
        InputError: If it exists but does not fit the class list or the kind; it is not touched.
    """
    if not out.exists():
        return False
    advice = f"Delete {out} to write it anew, or choose another --out."
    try:
        texts = load_auxiliary_texts(out, class_names, background)
        for names, text in zip(class_names, texts, strict=True):
            if text is not None:
                check_answer(text, kind, names[0])
    except UnusableAnswer as error:
        raise InputError(
            f"--out: {out} exists and is no file of {kind}: for {names[0]!r}, {error}. {advice}"
        ) from None
    except InputError as error:
        raise InputError(
            f"--out: {out} exists and does not fit the classes. {advice}\n{error}"
        ) from None
    return True


def _ask_until_valid(
    backend: Backend, prompt: str, kind: str, name: str, taken: set[str], seed: int, retries: int
) -> str:
    """A valid answer; an unusable one is answered with the reason.

    Raises:
        UnusableAnswer: The last reason, when all attempts are used up.
    """
    messages = [{"role": "user", "content": prompt}]
    for attempt in range(retries + 1):
        answer = backend(messages, _derived_seed(seed, name, attempt))
        try:
            text = clean_answer(answer, name)
            check_answer(text, kind, name, taken)
        except UnusableAnswer as error:
            if attempt == retries:
                raise UnusableAnswer(f"{error} (last answer: {_shortened(answer)!r})") from None
            messages = [
                messages[0],
                {"role": "assistant", "content": answer.strip() or "(empty)"},
                {"role": "user", "content": RETRY.format(reason=error)},
            ]
        else:
            return text
    raise AssertionError("unreachable")


def _derived_seed(seed: int, name: str, attempt: int) -> int:
    """A seed of its own for every class and attempt, 31 bits."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _shortened(text: str, limit: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
