"""Text features: names in templates, averaged, blended with auxiliary texts (METHODS 1.2).

CLIP's text tower is causal and a prompt's feature is read at its end token, so prompts are encoded
in batches of equal token length without any padding: exact, and most prompts use 10-20 of 77
tokens. SigLIP's is not, and is read at the last token: its prompts are padded to the whole context.

Shapes: P prompts, T tokens, D width, E embedding, Q queries.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .clip_model import facts_of
from .clip_model.tokenizers import Tokenizer, tokenizer_of
from .errors import InputError
from .recipes.tower import add_attention, add_feed_forward, block_projections
from .runtime.recent import Recent
from .runtime.text_cache import TextCache
from .runtime.torch_state import WeightsStamp, undisturbed
from .vocabulary import Vocabulary, shortened

# Tokens in one batch; larger ones are no faster on a CPU and only cost memory.
_BATCH_TOKENS = 4096
# A text may merge with its template's punctuation, so a sum of lengths is off by a few tokens.
_MARGIN = 8
# Texts whose features stay in memory (2 KB each for ViT-B/16).
_MAX_KNOWN = 10_000
# Raise when the features of equal texts and weights change.
_VERSION = 1


_TEMPLATES = Path(__file__).parent / "assets" / "imagenet_templates.txt"


def imagenet_templates() -> tuple[str, ...]:
    """The 80 templates of CLIP's ImageNet evaluation, each with a ``{}`` for the name."""
    return tuple(_TEMPLATES.read_text(encoding="utf-8").splitlines())


class TextEncoder(nn.Module):
    """CLIP's text tower.

    Args:
        clip: ``clip.model.CLIP``, or a model with its attributes; its text modules are taken over.

    Attributes:
        facts: of the model.
        remember: keep the features of texts in memory, for words that change often.
    """

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.remember = False
        self.facts = facts_of(clip)
        self._check_end()
        self.blocks = clip.transformer.resblocks
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.text_projection_bias = getattr(clip, "text_projection_bias", None)
        self._known: Recent[Tensor] = Recent(_MAX_KNOWN)  # templates, text → (E,) on the CPU
        self._digest: tuple[WeightsStamp, str] | None = None
        self.requires_grad_(False).eval()
        self._known_with = WeightsStamp(self)

    @property
    def context_length(self) -> int:
        return len(self.positional_embedding)

    @undisturbed()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Features of prompts, (P, E) fp32, not normalised.

        Raises:
            InputError: a prompt longer than the context.
        """
        by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            tokens = self.tokenize(prompt)
            if len(tokens) > self.context_length:
                raise InputError(
                    f"text: {shortened(prompt)!r} has {len(tokens)} tokens, but CLIP reads at most "
                    f"{self.context_length}; shorten it."
                )
            if self.facts.text_reads == "last":
                tokens = self.tokenizer.padded(tokens, self.context_length)
            by_length[len(tokens)].append((index, tokens))
        device = self.text_projection.device
        shape = (len(prompts), self.text_projection.shape[1])
        features = torch.empty(shape, dtype=torch.float32, device=device)
        with tqdm(total=len(prompts), desc="text prompts", delay=2) as bar:
            for length, entries in sorted(by_length.items()):
                step = max(1, _BATCH_TOKENS // length)
                for start in range(0, len(entries), step):
                    indices, rows = zip(*entries[start : start + step], strict=True)
                    encoded = self._encode_tokens(torch.tensor(rows, device=device))
                    features[list(indices)] = encoded
                    bar.update(len(indices))
        return features

    def tokenize(self, prompt: str) -> list[int]:
        """Token numbers with start and end tokens, of any length."""
        return self.tokenizer(prompt)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own; kept beside the model, which may be copied and pickled."""
        return tokenizer_of(self.facts.tokenizer, self.facts.cleaning)

    def _check_end(self) -> None:
        """The token that the tower reads must be the last of a text, and only there."""
        if self.facts.text_reads == "last":
            return
        tokens, end = self.tokenize("a"), self.facts.end_token
        end = max(tokens) if end is None else end
        if end not in tokens or tokens.index(end) != len(tokens) - 1:
            raise InputError(
                f"{self.facts.tokenizer}: its tokenizer does not end a text with the token that "
                f"the model reads ({end}); fetch the whole repository again."
            )

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        """(P, T) token numbers, of which the last is read → (P, E)."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks[:-1]:
            x = _block(block, x, self.facts.causal)
        # Only the last token is read, so the last block needs no other query.
        q, k, v = block_projections(self.blocks[-1], x)
        attention = F.scaled_dot_product_attention(q[:, :, -1:], k, v)
        x = add_attention(self.blocks[-1], x[:, -1:], attention)
        x = add_feed_forward(self.blocks[-1], x)[:, 0]
        features = self.ln_final(x) @ self.text_projection
        return (
            features if self.text_projection_bias is None else features + self.text_projection_bias
        )

    def digest(self) -> str:
        """A sha256 of the tower's weights and what else its features depend on, made once."""
        kept = self._digest
        if kept is None or not kept[0].holds(self):
            stamp, facts = (
                WeightsStamp(self),
                f"{self.facts.text_facts()} {self.tokenizer.identity}",
            )
            sha = hashlib.sha256(facts.encode())
            for key, value in sorted(self.state_dict().items()):
                sha.update(f"{key} {tuple(value.shape)}".encode())
                sha.update(value.detach().cpu().contiguous().numpy())
            kept = self._digest = (stamp, sha.hexdigest())
        return kept[1]

    @undisturbed()
    def template_features(
        self,
        texts: Sequence[str],
        templates: Sequence[str],
        text_cache: TextCache | None = None,
    ) -> Tensor:
        """One feature per text: every template filled, encoded, normalised; mean; normalised.

        With :attr:`remember`, a text met before is not encoded again.

        Args:
            texts: names or auxiliary texts.
            templates: with one ``{}`` each.
            text_cache: where features of earlier runs are kept; None computes anew.

        Returns:
            (len(texts), E) with L2 norm 1.
        """
        which, known = tuple(templates), {}
        if not self._known_with.holds(self):
            self._known, self._known_with = Recent(_MAX_KNOWN), WeightsStamp(self)
        memory = self._known
        for text in dict.fromkeys(texts) if self.remember else ():
            found = memory.get((which, text))
            if found is not None:
                known[text] = found
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            features = self._new_features(new, templates, text_cache).cpu()
            known.update(zip(new, features, strict=True))
            if self.remember:
                memory.update(((which, text), known[text]) for text in new)
        return torch.stack([known[text] for text in texts]).to(self.text_projection.device)

    def _new_features(
        self, texts: list[str], templates: Sequence[str], text_cache: TextCache | None
    ) -> Tensor:
        """As :meth:`template_features`, for different texts, without the memory."""
        key = None
        if text_cache is not None:
            key = text_cache.key(_VERSION, self.digest(), templates, texts)
            found = text_cache.load(key, (len(texts), self.text_projection.shape[1]))
            if found is not None:
                return found
        prompts = [template.format(text) for text in texts for template in templates]
        features = self.encode(prompts)
        features = F.normalize(features, dim=-1).view(len(texts), len(templates), -1)
        features = F.normalize(features.mean(dim=1), dim=-1)
        if text_cache is not None and key is not None:
            text_cache.store(key, features)
        return features

    @undisturbed()
    def vocabulary_features(
        self,
        vocabulary: Vocabulary,
        aux_text_weight: float,
        templates: Sequence[str],
        text_cache: TextCache | None = None,
    ) -> Tensor:
        """Features of all queries: F = (1 - α) F_name + α F_aux (ITACLIP eq. 8-9).

        Every name of a class takes its class's one auxiliary text; names without one (the
        background's) stay as they are. The blend is not renormalised.

        Args:
            vocabulary: Q queries.
            aux_text_weight: α in [0, 1].

        Returns:
            (Q, E).

        Raises:
            InputError: a name or text that is too long in a template, that is nothing to CLIP, or
                that holds CLIP's marks of start and end, with its file and line.
        """
        self._check_lengths(vocabulary, templates)
        auxiliary = [vocabulary.auxiliary_texts[c] for c in vocabulary.query_classes]
        blended = [i for i, text in enumerate(auxiliary) if text is not None]
        texts = [*vocabulary.queries, *(text for text in auxiliary if text is not None)]
        features = self.template_features(texts, templates, text_cache)
        queries, aux = features.split([len(vocabulary.queries), len(blended)])
        if blended:
            queries[blended] = (1 - aux_text_weight) * queries[blended] + aux_text_weight * aux
        return queries

    def _check_lengths(self, vocabulary: Vocabulary, templates: Sequence[str]) -> None:
        """Every text must fit into the longest template."""
        marks, unknown = self.tokenizer.marks, self.tokenizer.unknown
        around = max(len(self.tokenize(template.format(""))) for template in templates)
        start, end = _split_marks(self.tokenize(""), self.tokenize("a"))

        def check(text: str, source: str | None, what: str) -> None:
            inner = self.tokenize(text)[len(start) : -len(end) or None]
            if not inner:
                raise InputError(
                    f"{source}: nothing is left of the {what} {text!r} when CLIP reads it; write "
                    "it in letters."
                )
            if unknown is not None and unknown in inner:
                raise InputError(
                    f"{source}: the {what} {shortened(text)!r} holds characters that this model's "
                    "tokenizer does not know; write it in others."
                )
            if not marks.isdisjoint(inner):
                raise InputError(
                    f"{source}: the {what} {shortened(text)!r} holds a mark by which CLIP knows "
                    "the start or end of a text; delete it."
                )
            if around + len(inner) + 2 <= self.context_length - _MARGIN:
                return  # certainly short enough; near the limit the exact count decides
            longest = max(templates, key=lambda t: len(self.tokenize(t.format(text))))
            count = len(self.tokenize(longest.format(text)))
            if count > self.context_length:
                raise InputError(
                    f"{source}: the {what} {shortened(text)!r} has {count} tokens in the template "
                    f"{longest!r}, but CLIP reads at most {self.context_length}; shorten it."
                )

        for index, names in enumerate(vocabulary.class_names):
            for name in names:
                check(name, vocabulary.source_of(index), "name")
            text = vocabulary.auxiliary_texts[index]
            if text is not None:
                check(text, vocabulary.auxiliary_source_of(index), "auxiliary text")


def _block(block: nn.Module, x: Tensor, causal: bool) -> Tensor:
    attention = F.scaled_dot_product_attention(*block_projections(block, x), is_causal=causal)
    return add_feed_forward(block, add_attention(block, x, attention))


def _split_marks(empty: list[int], letter: list[int]) -> tuple[list[int], list[int]]:
    """The marks before and after a text, from the tokens of no text and of a letter."""
    before = 0
    while before < len(empty) and empty[before] == letter[before]:
        before += 1
    return empty[:before], empty[before:]
