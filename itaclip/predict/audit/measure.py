"""Measures a vocabulary: one pass over the pictures, any number of word lists.

A picture's features are made once; each word list then costs a matrix product. The maps are those
before refinement, at a small size, which tells names apart as well and takes a fraction of the
time; with masks, labels are made at full size with all the model's settings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...features import DenseFeatures
from ...runtime.batches import trim_memory
from ...segmentor import Segmentor
from ...text_encoder import TextEncoder, imagenet_templates
from ...vocabulary import Vocabulary
from ..images import resized_shape
from ..segmenter import EncodedImage, Segmenter
from .tallies import Crop, Tally

_MAP_SIDE = 256  # long side of the maps
_MAX_PAIRS = 12
_MAX_CROPS = 6


@dataclass(frozen=True)
class WordList:
    """Words for the same classes.

    Attributes:
        name: what tables call it.
        vocabulary: the words.
        aux_text_weight: α of its auxiliary texts; None takes the model's.
    """

    name: str
    vocabulary: Vocabulary
    aux_text_weight: float | None = None


@dataclass
class Audit:
    """What :func:`audit` found.

    Attributes:
        pictures: number of them.
        names: a row for each name: ``name``, ``class``, ``tokens``, ``wins`` (share of all pixels
            where it is the best of all names), ``without`` (share of all pixels that change class
            without it) and ``goes_to`` (the class that gets most of them).
        classes: a row for each class: ``class``, ``area`` (share of all pixels), ``margin`` (mean
            over its pixels of the best minus the second score), ``unsure`` (share of its pixels
            where that is below 0.1) and ``rival``, the class that is second there.
        similar: the pairs of names of different classes that are most alike as texts: ``name``,
            ``other``, ``cosine``.
        confused: the pairs of classes with the most unsure pixels between them: ``class``,
            ``other``, ``share`` of all pixels.
        never: names that are the best at no pixel, though their class has others.
        too_long: names that do not fit into the model's context: ``name``, ``class``, ``tokens``.
        lists: a row for each word list: ``list``, ``changed`` (share of pixels whose class differs
            from the first list's) and, with masks, ``miou`` in percent and ``per_class``.
        crops: for pairs of classes, where they are confused most.
        examples: (source, picture (h, w, 3), labels (h, w)) of the first pictures.
    """

    pictures: int = 0
    names: list[dict] = field(default_factory=list)
    classes: list[dict] = field(default_factory=list)
    similar: list[dict] = field(default_factory=list)
    confused: list[dict] = field(default_factory=list)
    never: list[str] = field(default_factory=list)
    too_long: list[dict] = field(default_factory=list)
    lists: list[dict] = field(default_factory=list)
    crops: list[tuple[str, str, Crop]] = field(default_factory=list)
    examples: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All but the pictures, ready for JSON."""
        return {k: v for k, v in vars(self).items() if k not in ("crops", "examples")}


def audit(
    model: Segmenter,
    images: Sequence[str | Path],
    words: WordList,
    others: Sequence[WordList] = (),
    masks: Mapping[str, Path] | None = None,
    ignored: int = 255,
    examples: int = 4,
    progress: Callable[[str], object] = lambda line: None,
) -> Audit:
    """Audits a vocabulary on pictures.

    Args:
        model: a loaded model.
        images: pictures.
        words: the list that is audited.
        others: lists for the same classes, to be compared with it.
        masks: picture → its mask, whose values are class indices.
        ignored: value of pixels in masks that are not scored.
        examples: how many pictures are kept to be shown.
        progress: told a line for each picture.

    Raises:
        InputError: pictures, masks or words that cannot be used, lists of other numbers of classes.
    """
    found = Audit()
    encoder = model.segmentor.text_encoder
    lists = [_fitting(words, encoder, found.too_long)]
    lists += [_fitting(other, encoder, []) for other in others]
    classes = lists[0].vocabulary.num_classes
    for own in lists:
        if own.vocabulary.num_classes != classes:
            raise InputError(
                f"{own.name}: expected words for {classes} classes like {words.name}, but it has "
                f"{own.vocabulary.num_classes}; give a line for each."
            )
    segmentors = [_segmentor(model, own) for own in lists]
    base = segmentors[0]
    tally = Tally(base.vocabulary.query_classes, base.settings.logit_scale)
    changed = [0] * len(lists)
    hits = [torch.zeros(2, classes, dtype=torch.float64) for _ in lists]
    for image in images:
        encoded = model.encode(image)
        source = _source(model, encoded)
        size = resized_shape(encoded.image.shape[:2], None, _MAP_SIDE)
        labels = None
        for index, segmentor in enumerate(segmentors):
            logits = segmentor.query_logits(source, size)
            if index == 0:
                labels = tally.add(logits, encoded.image, encoded.source)
                continue
            owners = torch.tensor(segmentor.vocabulary.query_classes, device=logits.device)
            changed[index] += int((owners[logits.argmax(-1)] != labels).sum())
        if len(found.examples) < examples:
            found.examples.append((encoded.source, encoded.image, labels.cpu().numpy()))
        if masks is not None:
            truth = _mask(masks, image, encoded.image.shape[:2], classes, ignored)
            for segmentor, sums in zip(segmentors, hits, strict=True):
                own, _ = segmentor.segment(
                    encoded.inputs, truth.shape, encoded.features, model.picture(encoded)
                )
                sums += _overlap(own.cpu(), truth, classes, ignored)
        found.pictures += 1
        progress(f"{encoded.source} ({found.pictures} of {len(images)})")
        trim_memory()
    _summarise(found, base, tally, encoder)
    _compare(found, lists, changed, hits if masks is not None else None, tally.pixels)
    return found


def _source(model: Segmenter, encoded: EncodedImage) -> Tensor | DenseFeatures:
    """What word lists are asked of: features, or the picture where they depend on the words."""
    recipe, regions = model.recipe, model.segmentor.settings.regions
    if encoded.features is None and recipe.needs_regions and not recipe.needs_text:
        found = regions and regions.map(model.picture(encoded))
        return model.segmentor.extract_feat(encoded.inputs, found)
    return encoded.inputs if encoded.features is None else encoded.features


def class_names(vocabulary: Vocabulary) -> tuple[str, ...]:
    """What tables call the classes."""
    names = vocabulary.first_names
    return ("background", *names[1:]) if vocabulary.background else names


def tokens_of(name: str, encoder: TextEncoder) -> int:
    """Tokens of a name in the template that makes the most of it."""
    return max(len(encoder.tokenize(template.format(name))) for template in imagenet_templates())


def _fitting(words: WordList, encoder: TextEncoder, dropped: list[dict]) -> WordList:
    """The list without names that are too long; they are added to ``dropped``."""
    vocabulary, kept = words.vocabulary, []
    for label, names in zip(class_names(vocabulary), vocabulary.class_names, strict=True):
        lengths = {name: tokens_of(name, encoder) for name in names}
        long = {name: n for name, n in lengths.items() if n > encoder.context_length}
        dropped += [{"name": name, "class": label, "tokens": n} for name, n in long.items()]
        kept.append([name for name in names if name not in long])
        if not kept[-1]:
            raise InputError(
                f"{words.name}: class {label!r} has no name that fits into the model's "
                f"{encoder.context_length} tokens; shorten one."
            )
    if [tuple(names) for names in kept] == list(vocabulary.class_names):
        return words
    texts = zip(kept, vocabulary.auxiliary_texts, strict=True)
    texts = {names[0]: text for names, text in texts if text is not None} or None
    shorter = Vocabulary.from_lists(kept, texts, vocabulary.background)
    return WordList(words.name, shorter, words.aux_text_weight)


def _segmentor(model: Segmenter, words: WordList) -> Segmentor:
    changes: dict[str, Any] = {"return_scores": False}
    if words.aux_text_weight is not None:
        changes["aux_text_weight"] = words.aux_text_weight
    if not words.vocabulary.background:
        changes["prob_thd"] = 0.0  # class 0 is like the others
    return model.segmentor.variant(vocabulary=words.vocabulary, **changes)


def _mask(
    masks: Mapping[str, Path], image: str | Path, size: tuple[int, int], classes: int, ignored: int
) -> Tensor:
    from ...data.loading import read_labels

    path = masks[str(image)]
    labels = torch.from_numpy(read_labels(path))
    if tuple(labels.shape) != tuple(size):
        raise InputError(
            f"{path}: expected a mask of {size[0]}x{size[1]} pixels (height x width) like its "
            f"picture, but it has {labels.shape[0]}x{labels.shape[1]}; make it again."
        )
    wrong = labels[(labels != ignored) & ((labels < 0) | (labels >= classes))]
    if len(wrong):
        raise InputError(
            f"{path}: the mask holds the value {int(wrong[0])}, but there are {classes} classes "
            f"(0 to {classes - 1}; {ignored} is ignored); convert it."
        )
    return labels


def _overlap(labels: Tensor, truth: Tensor, classes: int, ignored: int) -> Tensor:
    """Intersection and union (2, C) of labels and truth (H, W)."""
    counted = truth != ignored
    labels, truth = labels[counted], truth[counted]
    common = labels[labels == truth].bincount(minlength=classes)
    union = labels.bincount(minlength=classes) + truth.bincount(minlength=classes) - common
    return torch.stack([common, union]).double()


def _summarise(found: Audit, base: Segmentor, tally: Tally, encoder: TextEncoder) -> None:
    vocabulary, pixels = base.vocabulary, max(1, tally.pixels)
    names, owners = class_names(vocabulary), vocabulary.query_classes
    for index, name in enumerate(vocabulary.queries):
        moves = tally.without[index].clone()
        moves[owners[index]] = 0
        lost = int(moves.sum())
        found.names.append(
            {
                "name": name,
                "class": names[owners[index]],
                "tokens": tokens_of(name, encoder),
                "wins": int(tally.wins[index]) / pixels,
                "without": lost / pixels,
                "goes_to": names[int(moves.argmax())] if lost else None,
            }
        )
        if not tally.wins[index] and len(vocabulary.class_names[owners[index]]) > 1:
            found.never.append(name)
    for index, name in enumerate(names):
        area, unsure = int(tally.areas[index]), tally.unsure[index]
        found.classes.append(
            {
                "class": name,
                "area": area / pixels,
                "margin": float(tally.margins[index]) / area if area else None,
                "unsure": int(unsure.sum()) / area if area else None,
                "rival": names[int(unsure.argmax())] if unsure.any() else None,
            }
        )
    found.similar = _similar(base.text_features, vocabulary)
    both = tally.unsure + tally.unsure.T
    pairs = sorted(
        ((int(both[a, b]), a, b) for a in range(len(names)) for b in range(a + 1, len(names))),
        key=lambda entry: -entry[0],
    )
    for count, a, b in pairs[:_MAX_PAIRS]:
        if count:
            found.confused.append({"class": names[a], "other": names[b], "share": count / pixels})
            if len(found.crops) < _MAX_CROPS:
                found.crops.append((names[a], names[b], tally.crops[a, b]))


def _similar(features: Tensor, vocabulary: Vocabulary) -> list[dict]:
    """The pairs of names of different classes with the highest cosines."""
    unit = torch.nn.functional.normalize(features, dim=-1)
    owners = torch.tensor(vocabulary.query_classes, device=unit.device)
    cosines = (unit @ unit.T).masked_fill(owners[:, None] >= owners[None], -torch.inf)
    count = min(_MAX_PAIRS, int((owners[:, None] < owners[None]).sum()))
    values, places = cosines.flatten().topk(count)
    return [
        {
            "name": vocabulary.queries[int(at) // len(owners)],
            "other": vocabulary.queries[int(at) % len(owners)],
            "cosine": round(float(value), 4),
        }
        for value, at in zip(values, places, strict=True)
    ]


def _compare(
    found: Audit,
    lists: Sequence[WordList],
    changed: Sequence[int],
    hits: Sequence[Tensor] | None,
    pixels: int,
) -> None:
    names = class_names(lists[0].vocabulary)
    for index, words in enumerate(lists):
        row: dict[str, Any] = {"list": words.name, "changed": changed[index] / max(1, pixels)}
        if hits is not None:
            common, union = hits[index]
            known = union > 0
            shares = 100 * common / union
            row["miou"] = round(float(shares[known].mean()), 2) if known.any() else None
            row["per_class"] = {
                name: round(float(shares[c]), 2) if known[c] else None
                for c, name in enumerate(names)
            }
        found.lists.append(row)
