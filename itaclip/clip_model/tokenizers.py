"""Tokenizers: text → the numbers that a text tower reads, marks of start and end among them."""

import html
import json
import string
from functools import cache, lru_cache
from pathlib import Path
from typing import Protocol

from ..errors import InputError
from ..runtime.files import sha256_of
from .openai_clip import clip_module

_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "spiece.model"),
    *("tokenizer.model", "sentencepiece.bpe.model"),
)
_MAX_VOCABULARY = 128 << 20  # bytes of a tokenizer.json; Gemma's has 34 MB


class Tokenizer(Protocol):
    """Text → token numbers.

    Attributes:
        marks: numbers that no text may hold: of start, end and padding.
        unknown: the number of characters that the tokenizer does not know, or None.
        identity: equal for tokenizers that read every text alike.
    """

    marks: frozenset[int]
    unknown: int | None
    identity: str

    def __call__(self, text: str) -> list[int]:
        """Numbers of the text with its marks, of any length, without padding."""

    def padded(self, tokens: list[int], length: int) -> list[int]:
        """Numbers filled up to ``length``, on the tokenizer's own side."""


class OpenAITokenizer:
    """CLIP's byte-pair encoding, which knows every character."""

    identity = "openai"

    def __init__(self) -> None:
        self._own = clip_module("simple_tokenizer").SimpleTokenizer()
        start, end = (self._own.encoder[f"<|{word}|>"] for word in ("startoftext", "endoftext"))
        self._start, self._end = start, end
        self.marks = frozenset((start, end))
        self.unknown = None

    def __call__(self, text: str) -> list[int]:
        return [self._start, *self._own.encode(text), self._end]

    def padded(self, tokens: list[int], length: int) -> list[int]:
        return tokens + [0] * (length - len(tokens))


class FolderTokenizer:
    """The tokenizer that a model's folder brings, run by ``transformers``."""

    def __init__(self, folder: Path, cleaning: str = "none") -> None:
        auto = _transformers_auto(folder)
        files = [path for name in _FILES if (path := folder / name).is_file()]
        try:
            if not files:  # the library would make an empty one
                raise FileNotFoundError(f"none of {', '.join(_FILES)} is there")
            self._own = auto.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # whatever the library raises
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(
                f"{folder}: expected the model's tokenizer (tokenizer.json and "
                f"tokenizer_config.json) beside its weights, but it cannot be read ({reason}); "
                "fetch the whole repository."
            ) from error
        self._cleaning = cleaning
        self.identity = repr([(path.name, sha256_of(path)) for path in files])
        own = self._own
        self.unknown = own.unk_token_id
        self.marks = frozenset(i for i in own.all_special_ids if i != self.unknown)
        if own.pad_token_id is None:
            raise InputError(
                f"{folder}: expected a tokenizer with a padding token; fetch it again."
            )

    def __call__(self, text: str) -> list[int]:
        if self._cleaning != "none":
            text = cleaned(text, self._cleaning == "canonicalize")
        return list(self._own(text, verbose=False)["input_ids"])

    def padded(self, tokens: list[int], length: int) -> list[int]:
        filling = [self._own.pad_token_id] * (length - len(tokens))
        return filling + tokens if self._own.padding_side == "left" else tokens + filling


def cleaned(text: str, canonicalise: bool) -> str:
    """As open_clip prepares texts: mended encoding, single spaces; canonicalised, in lower case and
    without punctuation too, as SigLIP's were.
    """
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    if canonicalise:
        text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation)).lower()
    return " ".join(text.split())


def _transformers_auto(folder: Path):
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise InputError(
            f"{folder}: this model's tokenizer needs transformers; run "
            "`pip install 'itaclip[transformers]'`."
        ) from None
    return AutoTokenizer


@cache
def openai_tokenizer() -> OpenAITokenizer:
    return OpenAITokenizer()


@lru_cache(maxsize=4)
def tokenizer_of(name: str, cleaning: str = "none") -> Tokenizer:
    """The tokenizer that :class:`~itaclip.clip_model.facts.Facts` names."""
    if name == "openai":
        return openai_tokenizer()
    return FolderTokenizer(Path(name), cleaning)


def has_other_vocabulary(folder: Path) -> bool:
    """Whether a folder brings a vocabulary that is not OpenAI's."""
    for name in ("tokenizer.json", "vocab.json"):
        path = folder / name
        if not path.is_file() or path.stat().st_size > _MAX_VOCABULARY:
            continue
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            words = content["model"]["vocab"] if name == "tokenizer.json" else content
            openai = openai_tokenizer()._own.encoder
            return dict(words).items() != openai.items()
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{path}: cannot be read as a tokenizer ({type(error).__name__}); fetch it again."
            ) from error
    return False
