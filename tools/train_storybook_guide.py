"""Train storybook-guide, the small second backbone that ships with the project, from nothing.

    python tools/train_storybook_guide.py --out itaclip/assets/storybook-guide

No caption and no mask is read: a student sees a crop in other colours and with patches masked, and
learns the prototypes to which its slowly following teacher assigns each patch and the whole picture
(self-distillation as in DINO, ICCV 2021, and iBOT, ICLR 2022, of which this is a small relative).
It stops after ``--minutes``, so how far it comes depends on the machine (the shipped guide: 11
minutes of a busy core, some 215 steps), and writes a folder in Hugging Face's layout.
"""

import argparse
import copy
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from itaclip.storybook.scenes import draw_scene  # noqa: E402

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SEED, SIDE, PROTOTYPES = 30_003, 112, 192
PATCH, CROP = 4, 40


def build(args: argparse.Namespace) -> nn.Module:
    from transformers import ViTConfig, ViTModel

    sizes = ViTConfig(
        hidden_size=args.width,
        num_hidden_layers=args.depth,
        num_attention_heads=args.width // 64,
        intermediate_size=3 * args.width,
        image_size=SIDE,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
    )
    return ViTModel(sizes, add_pooling_layer=False, use_mask_token=True)


class Head(nn.Module):
    """Cosine of tokens with prototypes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 64))
        self.prototypes = nn.Linear(64, PROTOTYPES, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        weight = F.normalize(self.prototypes.weight, dim=-1)
        return F.normalize(self.map(tokens), dim=-1) @ weight.T


def crops(pictures: Tensor, count: int) -> Tensor:
    """Random crops (count, 3, CROP, CROP), or flipped, of pictures (N, 3, SIDE, SIDE)."""
    chosen = torch.randint(len(pictures), (count,))
    corner = torch.randint(SIDE - CROP + 1, (count, 2))
    found = [
        pictures[n, :, y : y + CROP, x : x + CROP]
        for n, (y, x) in zip(chosen.tolist(), corner.tolist(), strict=True)
    ]
    batch = torch.stack(found)
    flip = torch.rand(count, 1, 1, 1) < 0.5
    return torch.where(flip, batch.flip(-1), batch)


def recoloured(batch: Tensor) -> Tensor:
    """Other light, tint and grain; normalised."""
    count = len(batch)
    gain = 1 + 0.25 * (torch.rand(count, 3, 1, 1) - 0.5) + 0.4 * (torch.rand(count, 1, 1, 1) - 0.5)
    shift = 0.15 * (torch.rand(count, 1, 1, 1) - 0.5)
    grain = 0.05 * torch.rand(count, 1, 1, 1) * torch.randn_like(batch)
    pixels = (batch * gain + shift + grain).clamp(0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return (pixels - mean) / std


def train(args: argparse.Namespace) -> nn.Module:
    torch.manual_seed(SEED)
    scenes = [draw_scene((SEED, n), (SIDE, SIDE)).image for n in range(args.pictures)]
    pictures = torch.from_numpy(np.stack(scenes)).permute(0, 3, 1, 2).float() / 255
    student = nn.ModuleList([build(args), Head(args.width), Head(args.width)])
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.04)
    centres = [torch.zeros(PROTOTYPES), torch.zeros(PROTOTYPES)]
    start, step = time.monotonic(), 0
    while (share := (time.monotonic() - start) / (60 * args.minutes)) < 1:
        rate = 1e-3 * min(1, (step + 1) / 50) * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        plain = crops(pictures, args.batch)
        first, second = recoloured(plain), recoloured(plain)
        masked = torch.rand(args.batch, (CROP // PATCH) ** 2) < 0.4
        with torch.no_grad():
            tokens = teacher[0](second, interpolate_pos_encoding=True).last_hidden_state
            targets = []
            for n, (head, own) in enumerate(
                ((teacher[1], tokens[:, :1]), (teacher[2], tokens[:, 1:]))
            ):
                logits = head(own)
                targets.append(((logits - centres[n]) / 0.06).softmax(-1))
                centres[n] = 0.9 * centres[n] + 0.1 * logits.mean((0, 1))
        tokens = student[0](
            first, bool_masked_pos=masked, interpolate_pos_encoding=True
        ).last_hidden_state
        losses = []
        for head, own, target in zip(
            student[1:], (tokens[:, :1], tokens[:, 1:]), targets, strict=True
        ):
            losses.append(-(target * (head(own) / 0.1).log_softmax(-1)).sum(-1))
        weight = 0.3 + 0.7 * masked
        loss = losses[0].mean() + (losses[1] * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        momentum = 0.996 - 0.02 * (1 - share)
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 1 - momentum)
        if step % 50 == 0:
            used = targets[1].flatten(0, 1).argmax(-1).unique().numel()
            print(f"{step} {share:.2f} {loss.item():.3f} prototypes {used}", flush=True)
        step += 1
    return teacher[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--minutes", type=float, default=11)
    parser.add_argument("--pictures", type=int, default=1500, help="scenes to draw")
    parser.add_argument("--batch", type=int, default=32, help="crops in a step")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=3)
    args = parser.parse_args()
    model = train(args)
    folder = Path(args.out)
    model.save_pretrained(folder)
    about = {"image_mean": MEAN, "image_std": STD, "image_processor_type": "ViTImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
