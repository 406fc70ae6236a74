"""What rows share: decoded pictures, the image encoder's blocks, its features.

The rows of a group ask for the same windows of a picture, in the same order: the first computes,
the others get the same tensors, so that every figure is the one of a run on its own.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...image_encoder import ImageEncoder
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


@contextmanager
def sharing(group: Sequence[Sequence[Any]]) -> Iterator[Turn]:
    """Lets the models of a group's rows share, until the end.

    Args:
        group: rows (see :class:`itaclip.evaluation.command.ablation.plan.Row`) that share blocks,
        in groups that share
            features.

    Yields:
        What must be told whose turn it is: before every picture, inner group and row.
    """
    turn, replaced = Turn(), []

    def stand_in(owner: Any, name: str, value: Any) -> None:
        setattr(owner, name, value)
        replaced.append((owner, name))

    try:
        if len(group) > 1:
            encoders = [inner[0].model.image_encoder for inner in group]
            depth = len(encoders[0].visual.transformer.resblocks)
            reads = [encoder.recipe.reads(depth) for encoder in encoders]
            turn.towers = SharedTowers(encoders[0], reads)
            for encoder in encoders:
                stand_in(encoder, "tower", turn.towers)
        for inner in group:
            compute = getattr(inner[0].model, "view_features", None)
            features = SharedFeatures(compute)
            if len(inner) > 1:
                for row in inner:
                    stand_in(row.model, "view_features", features)
            turn.all_features.append(features)
        yield turn
    finally:
        for owner, name in replaced:
            delattr(owner, name)


class SharedTowers:
    """Stands in for :meth:`ImageEncoder.tower` of recipes that differ in the last block alone.

    Args:
        encoder: computes for all.
        reads: of all recipes.
    """

    def __init__(self, encoder: ImageEncoder, reads: Sequence[Reads]) -> None:
        self._compute = encoder.tower
        self._device = encoder.visual.conv1.weight.device
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
    """Stands in for :meth:`ITACLIPSegmentor.view_features` of all rows of a group.

    The first row of a picture computes; the others, which ask for the same windows in the same
    order, get what it computed.
    """

    def __init__(self, compute: Callable[[Sequence[Tensor]], Tensor]) -> None:
        self._compute = compute
        self.next_image()

    def next_image(self) -> None:
        self._kept: list[Tensor] = []  # (V, B, h, w, E) of one batch of windows each
        self.rewind()

    def rewind(self) -> None:
        """The next call is about the picture's first windows."""
        self._batch, self._window = 0, 0

    def __call__(self, crops: Sequence[Tensor]) -> Tensor:
        """(V, B, h, w, E) for at most ``len(crops)`` windows: a kept batch may be smaller."""
        if self._batch == len(self._kept):
            self._kept.append(self._compute(crops))
        batch = self._kept[self._batch]
        part = batch[:, self._window : self._window + len(crops)]
        self._window += part.shape[1]
        if self._window == batch.shape[1]:
            self._batch, self._window = self._batch + 1, 0
        return part


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
