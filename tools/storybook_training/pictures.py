"""Training pictures: scenes drawn onto disk, mosaics of small ones, augmentation."""

import json
import multiprocessing
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from itaclip.runtime.files import write_whole
from itaclip.storybook.scenes import Scene, draw_scene
from itaclip.storybook.textures import STUFF

SIDE, CELL = 112, 64
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def training_scene(index: int, seed: int) -> Scene:
    """Scene number `index`: one large thing, several things, or stuff alone."""
    kind = random.Random(f"{seed}-{index}").random()
    key = (seed, index)
    if kind < 0.55:
        return draw_scene(key, (SIDE, SIDE), (1, 1), (20.0, 50.0), (1, 2))
    if kind < 0.90:
        return draw_scene(key, (SIDE, SIDE), (2, 3), (16.0, 38.0), (1, 3))
    return draw_scene(key, (SIDE, SIDE), (0, 0), layers=(1, 2))


def training_cell(index: int, seed: int) -> Scene:
    """Small picture number `index` for mosaics: one thing or stuff alone; any 48-pixel part of it
    shows what is named.
    """
    kind = random.Random(f"{seed}-{index}").random()
    things = (1, 1) if kind < 0.65 else (0, 0)
    layers = (1, 1) if kind % 0.1 < 0.07 else (2, 2)
    scene = draw_scene((seed, index), (CELL, CELL), things, (11.0, 26.0), layers, (0.3, 0.3))
    scene.shares = {k: v for k, v in scene.shares.items() if k not in STUFF or v >= 0.3}
    return scene


def _draw_some(job: tuple[str, int, int, int, int, int]) -> list[dict]:
    path, side, total, seed, start, stop = job
    pictures = np.memmap(path, np.uint8, "r+", shape=(total, side, side, 3))
    draw = training_scene if side == SIDE else training_cell
    notes = []
    for index in range(start, stop):
        scene = draw(index, seed)
        pictures[index] = scene.image
        notes.append({"shares": scene.shares, "colours": scene.colours, "counts": scene.counts})
    return notes


def draw_pictures(folder: Path, side: int, total: int, seed: int, processes: int):
    """Training pictures (total, side, side, 3) uint8 on disk, and what is to be seen on each.

    They are drawn once; a finished set in `folder` is used again.
    """
    name = f"{total}-{seed}" if side == SIDE else f"{total}-{seed}-{side}"
    path, notes_path = folder / f"pictures-{name}.u8", folder / f"notes-{name}.json"
    if not notes_path.exists():
        np.memmap(path, np.uint8, "w+", shape=(total, side, side, 3))
        step = 250
        jobs = [
            (str(path), side, total, seed, k, min(k + step, total)) for k in range(0, total, step)
        ]
        notes: list[dict] = []
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for part in tqdm(pool.imap(_draw_some, jobs), "drawing", len(jobs)):
                notes += part
        write_whole(notes_path, json.dumps(notes))
    scenes = [Scene(None, None, **note) for note in json.loads(notes_path.read_text())]
    return np.memmap(path, np.uint8, "r", shape=(total, side, side, 3)), scenes


def lay_mosaics(cells: np.ndarray, patch: int, rng: random.Random) -> tuple[np.ndarray, Tensor]:
    """Four small pictures on each large one, cut at random multiples of the patch.

    Args:
        cells: (4 · M, 64, 64, 3) uint8.

    Returns:
        mosaics (M, 112, 112, 3) uint8, and (M, 4, 196) bool: the patches of each small picture.
    """
    count, grid = len(cells) // 4, SIDE // patch
    mosaics = np.empty((count, SIDE, SIDE, 3), np.uint8)
    owner = torch.zeros(count, 4, grid, grid, dtype=torch.bool)
    for m in range(count):
        row, column = (patch * rng.randint(48 // patch, 64 // patch) for _ in range(2))
        for k in range(4):
            rows = slice(0, row) if k < 2 else slice(row, SIDE)
            columns = slice(0, column) if k % 2 == 0 else slice(column, SIDE)
            height, width = rows.stop - rows.start, columns.stop - columns.start
            top, left = rng.randint(0, CELL - height), rng.randint(0, CELL - width)
            mosaics[m, rows, columns] = cells[4 * m + k, top : top + height, left : left + width]
            owner[
                m,
                k,
                rows.start // patch : rows.stop // patch,
                columns.start // patch : columns.stop // patch,
            ] = True
    return mosaics, owner.flatten(2)


def augment(pictures: np.ndarray, generator: torch.Generator, flips: bool = True) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) normalised, some gray, blurred or flipped."""
    draw = torch.rand(len(pictures), 4, generator=generator)
    contrast = 0.8 + 0.4 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    x = torch.from_numpy(pictures)
    for column, axis, rate in ((0, 2, 0.5), (1, 1, 0.1)) if flips else ():
        turned = draw[:, column].lt(rate).nonzero().flatten()
        x[turned] = x[turned].flip(axis)
    x = x.permute(0, 3, 1, 2).contiguous().float()
    x = x.mul_(contrast / (255 * STD)).add_((0.5 * (1 - contrast) - MEAN) / STD)
    at = draw[:, 2].lt(0.08).nonzero().flatten()
    x[at] = (0.2989 * x[at, 0] + 0.587 * x[at, 1] + 0.114 * x[at, 2]).unsqueeze(1)
    blurred = draw[:, 3].lt(0.1).nonzero().flatten()
    if len(blurred):
        offsets = torch.arange(-5, 6).float()
        sigma = 1.0 + 4.0 * float(torch.rand((), generator=generator))
        line = torch.exp(-(offsets**2) / (2 * sigma**2))
        line = (line / line.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
        padded = F.pad(x[blurred], (5, 5, 5, 5), mode="reflect")
        rows = F.conv2d(padded, line, groups=3)
        x[blurred] = F.conv2d(rows, line.transpose(2, 3), groups=3)
    return x
