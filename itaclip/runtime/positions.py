"""Position embeddings for other grids than the one that a transformer was trained with."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_positions(
    positions: Tensor, grid: tuple[int, int], rule: str = "offset", prefix: int = 1
) -> Tensor:
    """Position embeddings for a patch grid, bicubic from the trained square grid.

    Args:
        positions: (p + g·g, D) of the trained g×g grid, [CLS] first.
        grid: (h, w) patches wanted.
        rule: ``'offset'``: the scale factor is (h + 0.1) / g, as in the code of DINO and of the
            CLIP methods: it, and not the size alone, sets the sampling points, so figures on other
            crops agree. ``'size'``: from g to h. ``'antialias'``: the same with antialiasing, as
            DINOv2 with registers has it.
        prefix: p, positions before the patches'.

    Returns:
        (p + h·w, D).
    """
    side = round((len(positions) - prefix) ** 0.5)
    if tuple(grid) == (side, side):
        return positions
    cls, patches = positions[:prefix], positions[prefix:]
    patches = patches.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if rule == "offset":
        scale = tuple((n + 0.1) / side for n in grid)
        how = dict(scale_factor=scale, recompute_scale_factor=False)
    else:
        how = dict(size=tuple(grid), antialias=rule == "antialias")
    resized = F.interpolate(patches, mode="bicubic", align_corners=False, **how)
    if resized.shape[-2:] != tuple(grid):
        raise RuntimeError(
            f"position embeddings resized to {tuple(resized.shape[-2:])}, not {grid}"
        )
    return torch.cat([cls, resized[0].flatten(1).T.to(cls.dtype)])
