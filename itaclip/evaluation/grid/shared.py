"""What rows share: decoded pictures, the image encoder's blocks, its features.

The rows of a group ask for the same windows of a picture, in the same order: the first computes,
the others get the same tensors, so that every figure is the one of a run on its own.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...image_encoder import ImageEncoder, sharing
from ...recipes.tower import Reads, Tower

# Decoded pictures, and the blocks' outputs for one picture, are kept up to about this many bytes;
# what is beyond is computed again.
_KEPT_BYTES = 1 << 30
_TOWER_BYTES = 4 << 30


class Turn:
    """Where a group's loops stand: a new picture, the next features, the next row of them."""

    def __init__(self) -> None:
        self.towers: SharedTowers | None = None
        self.all_features: list[SharedFeatures] = []

    def next_image(self) -> None:
        self._group = -1
        if self.towers:
            self.towers.next_image()

    def next_features(self) -> None:
        self._group += 1
        if self.towers:
            self.towers.rewind()
        self.all_features[self._group].next_image()

    def next_row(self) -> None:
        self.all_features[self._group].rewind()


def shared(group: Sequence[Sequence[Any]]) -> tuple[Turn, dict[str, Any]]:
    """Variants of the models of a group's rows that share what they can.

    Args:
        group: rows (see :class:`itaclip.evaluation.grid.plan.Row`) that share blocks, in groups
            that share features.

    Returns:
        What must be told whose turn it is, before every picture, inner group and row; and the
        models by the rows' keys. The rows' own models stay as they are.
    """
    turn, models = Turn(), {row.key: row.model for inner in group for row in inner}
    if len(group) > 1:
        encoders = [inner[0].model.image_encoder for inner in group]
        reads = [encoder.recipe.reads(encoder.depth) for encoder in encoders]
        turn.towers = SharedTowers(encoders[0], reads)
    for inner in group:
        features = SharedFeatures()
        if turn.towers or len(inner) > 1:
            encoder = sharing(inner[0].model.image_encoder, _Sharing)
            encoder.towers, encoder.features = turn.towers, features if len(inner) > 1 else None
            for row in inner:
                models[row.key] = row.model.variant(image_encoder=encoder)
        turn.all_features.append(features)
    return turn, models


class _Sharing(ImageEncoder):
    """An encoder that takes its towers, and perhaps its features, from those of a group."""

    towers: "SharedTowers | None"
    features: "SharedFeatures | None"

    def forward(self, images: Tensor, text: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.features is None:
            return super().forward(images, text)
        return self.features(super().forward, images, text)

    def tower(self, images: Tensor, reads: Reads | None = None) -> Tower:
        return super().tower(images, reads) if self.towers is None else self.towers(images)


class SharedTowers:
    """Stands in for :meth:`ImageEncoder.tower` of recipes that differ in the last block alone.

    Args:
        encoder: computes for all.
        reads: of all recipes.
    """

    def __init__(self, encoder: ImageEncoder, reads: Sequence[Reads]) -> None:
        self._compute = encoder.tower
        self._device = encoder.device
        blocks = (sorted({n for r in reads for n in r.projections}),
                  sorted({n for r in reads for n in r.outputs}))  # fmt: skip
        self._reads = Reads(*map(tuple, blocks))
        self.next_image()

    def next_image(self) -> None:
        self._kept: dict[tuple[int, int], Tower] = {}  # by first pass and number of passes
        self._room = _room_for_towers(self._device)
        self.rewind()

    def rewind(self) -> None:
        """The next call is about the picture's first windows."""
        self._at = 0

    def __call__(self, images: Tensor) -> Tower:
        place = self._at, len(images)
        tower = self._kept.get(place)
        if tower is None:
            tower = self._compute(images, self._reads)
            _ = tower.last  # computed once, for all
            size = _tower_bytes(tower)
            if size <= self._room:
                self._room -= size
                self._kept[place] = tower
        self._at += len(images)
        # Recipes get lists of their own; the tensors are the same.
        own = dict(projections=dict(tower.projections), outputs=dict(tower.outputs))
        return replace(tower, **own)


def _room_for_towers(device: torch.device) -> int:
    """Bytes, at most _TOWER_BYTES: an eighth of the memory, on a GPU a quarter of what is free."""
    if device.type == "cuda":
        return min(_TOWER_BYTES, torch.cuda.mem_get_info(device)[0] // 4)
    try:
        return min(_TOWER_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8)
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return _TOWER_BYTES // 4


def _tower_bytes(tower: Tower) -> int:
    tensors = [tower.tokens, *tower.outputs.values()]
    tensors += [tensor for projections in tower.projections.values() for tensor in projections]
    return sum(tensor.nbytes for tensor in tensors)


class SharedFeatures:
    """Features of the views of a picture's windows, for all rows of a group.

    The first row of a picture computes; the others, which ask for the same windows in the same
    order, get what it computed.
    """

    def __init__(self) -> None:
        self.next_image()

    def next_image(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.rewind()

    def rewind(self) -> None:
        """The next call is about the picture's first windows."""
        self._batch = 0

    def __call__(
        self, compute: Callable[..., tuple[Tensor, Tensor]], images: Tensor, text: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What ``compute`` makes of a batch, or made of it for the first row."""
        if self._batch == len(self._kept):
            self._kept.append(compute(images, text))
        found = self._kept[self._batch]
        if len(found[0]) < len(images):
            # Memory ran out here for the first row: this one halves its batch as that one did.
            raise torch.OutOfMemoryError("the first row's batch was smaller")
        self._batch += 1
        return found


class Pictures:
    """Decoded samples of a data set; the first ones are kept in memory."""

    def __init__(self, dataset: Any, keep: bool = True) -> None:
        self.dataset, self.decoded = dataset, 0
        self._room, self._kept = _KEPT_BYTES * keep, {}

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index in self._kept:
            return self._kept[index]
        sample = self.dataset[index]
        self.decoded += 1
        size = sample["inputs"].nbytes
        if "gt_sem_seg" in sample["data_samples"]:
            size += sample["data_samples"].gt_sem_seg.data.nbytes
        if size <= self._room:
            self._room -= size
            self._kept[index] = sample
        return sample
