"""Train storybook-tiny, the small CLIP that ships with the project, from nothing.

    python tools/train_storybook_tiny.py --out model.npz

Pictures and captions only: the loss is CLIP's, no mask is ever read. The training is seeded, keeps
a checkpoint from which it resumes, and writes a log with a line of JSON every 50 steps.

Legend: B batch, N tokens (the first is [CLS]), D width, T text tokens.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import json
import math
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from itaclip.storybook.captions import Caption, write_caption  # noqa: E402
from itaclip.storybook.scenes import Scene, draw_scene  # noqa: E402
from itaclip.storybook.textures import STUFF  # noqa: E402


@dataclass(frozen=True)
class Part:
    """A part of the training: from step `first` until the next part's.

    Attributes:
        begin, end: steps between which the learning rate's cosine falls.
        peak: learning rate at `begin`.
        stuff_rate: how often the stuff behind things is named.
        mosaics: two steps of three are on mosaics.
    """

    first: int
    begin: int
    end: int
    peak: float
    stuff_rate: float
    mosaics: bool = False


SIDE, CELL = 112, 64
TRAIN_SEED, CELL_SEED = 20_002, 20_003
SCHEDULE = (
    Part(first=0, begin=0, end=3600, peak=8e-4, stuff_rate=0.6),
    Part(first=2600, begin=2600, end=4600, peak=6e-4, stuff_rate=0.6, mosaics=True),
    Part(first=4600, begin=2600, end=7400, peak=6e-4, stuff_rate=0.2, mosaics=True),
)
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def load_by_location(package: str, file: str) -> ModuleType:
    """A module of an installed package, without running the package's own imports."""
    folder = Path(importlib.util.find_spec(package).origin).parent
    spec = importlib.util.spec_from_file_location(f"{package}_{Path(file).stem}", folder / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------ pictures


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
    shows what is named."""
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
        notes_path.with_suffix(".part").write_text(json.dumps(notes))
        os.replace(notes_path.with_suffix(".part"), notes_path)
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


# --------------------------------------------------------------------------------------- model


def block_forward(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """One of openai-clip's blocks on (B, N, D), written out so that its backward pass is fast.

    QuickGELU, x · sigmoid(1.702 x), is SiLU with 1.702 moved into the weights on either side.
    """
    x = x + attend(block, F.layer_norm(x, x.shape[-1:], block.ln_1.weight, block.ln_1.bias), mask)
    return x + feed_forward(block, x)


def attend(block: nn.Module, x: Tensor, mask: Tensor | None, queries: int | None = None) -> Tensor:
    """Multi-head attention on (B, N, D); only the first `queries` tokens ask if given."""
    batch, tokens, width = x.shape
    heads = width // 64
    qkv = F.linear(x, block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, k, v = qkv.view(batch, tokens, 3, heads, 64).permute(2, 0, 3, 1, 4).unbind(0)
    if queries is not None:
        q = q[:, :, :queries]
    logits = torch.matmul(q * 0.125, k.transpose(-1, -2))  # (B, heads, queries, N)
    if mask is not None:
        logits = logits + mask
    out = torch.matmul(logits.softmax(-1), v).transpose(1, 2).reshape(batch, -1, width)
    return F.linear(out, block.attn.out_proj.weight, block.attn.out_proj.bias)


def feed_forward(block: nn.Module, x: Tensor) -> Tensor:
    """The block's MLP on its normalised input."""
    x = F.layer_norm(x, x.shape[-1:], block.ln_2.weight, block.ln_2.bias)
    x = F.linear(x, block.mlp.c_fc.weight * 1.702, block.mlp.c_fc.bias * 1.702)
    return F.linear(F.silu(x), block.mlp.c_proj.weight * (1 / 1.702), block.mlp.c_proj.bias)


def embed_patches(visual: nn.Module, x: Tensor, keep: Tensor | None) -> Tensor:
    """Pictures (B, 3, H, W) → tokens (B, 1 + n, D) before the blocks, n kept patches a picture.

    Args:
        keep: (B, n) numbers of the patches to keep, None for all.
    """
    x = visual.conv1(x).flatten(2).transpose(1, 2) + visual.positional_embedding[1:]
    if keep is not None:
        x = x.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    first = (visual.class_embedding + visual.positional_embedding[0]).expand(len(x), 1, -1)
    return visual.ln_pre(torch.cat([first.to(x.dtype), x], dim=1))


def run_blocks(visual: nn.Module, x: Tensor) -> Tensor:
    """All blocks but the last."""
    for block in visual.transformer.resblocks[:-1]:
        x = block_forward(block, x)
    return x


def read_out(
    visual: nn.Module,
    x: Tensor,
    start: Tensor,
    reset: Tensor,
    plain: Tensor,
    cells: Tensor | None = None,
) -> Tensor:
    """The last block, for [CLS] alone: (B, N, D) → image features (B, E).

    Args:
        start: (B, 1, D) [CLS] as it entered the first block.
        reset: (B, 1, 1) bool: [CLS] is put back to `start`, so that what the picture shows can
            only come from the patches' values.
        plain: (B, 1, 1) bool: the feed-forward part is left out (stochastic depth).
        cells: (B, K, N − 1) bool, the patches of K pictures in a mosaic: [CLS] reads them one by
            one, and features are (B · K, E).
    """
    block = visual.transformer.resblocks[-1]
    x = torch.cat([torch.where(reset, start, x[:, :1]), x[:, 1:]], dim=1)
    normed = F.layer_norm(x, x.shape[-1:], block.ln_1.weight, block.ln_1.bias)
    mask = None
    if cells is not None:
        mask = torch.zeros(*cells.shape[:2], x.shape[1])
        mask[..., 1:].masked_fill_(~cells, float("-inf"))
        mask = mask[:, None]  # (B, 1, K, N)
    token = x[:, :1] + attend(block, normed, mask, queries=1)
    token = token + feed_forward(block, token) * (~plain)
    return (visual.ln_post(token) @ visual.proj).flatten(0, 1)


def encode_text(model: nn.Module, rows: Tensor, embedding: Tensor, ends: Tensor) -> Tensor:
    """Captions → text features (B, E).

    Args:
        rows: (B, T) rows of `embedding`; T may be shorter than the full context.
        embedding: (R, D) the token embedding's rows that occur at all.
        ends: (B,) position of each caption's end token.
    """
    length = rows.shape[1]
    x = F.embedding(rows, embedding) + model.positional_embedding[:length]
    mask = torch.full((length, length), float("-inf")).triu(1)
    for block in model.transformer.resblocks:
        x = block_forward(block, x, mask)
    x = x[torch.arange(len(x)), ends]
    return model.ln_final(x) @ model.text_projection


def build_model(args: argparse.Namespace) -> nn.Module:
    """A new `clip.model.CLIP`; the last block's output projection starts larger."""
    clip = load_by_location("clip", "model.py")
    torch.manual_seed(args.seed)
    model = clip.CLIP(
        embed_dim=args.embed,
        image_resolution=SIDE,
        vision_layers=12,
        vision_width=args.width,
        vision_patch_size=args.patch,
        context_length=77,
        vocab_size=49408,
        transformer_width=args.text_width,
        transformer_heads=args.text_width // 64,
        transformer_layers=args.text_layers,
    )
    with torch.no_grad():
        last = model.visual.transformer.resblocks[-1].attn.out_proj
        last.weight *= args.last_gain
    return model.float()


# ------------------------------------------------------------------------------------ training


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, named: list[frozenset]) -> Tensor:
    """CLIP's loss (both directions); captions that name the same classes share the target.

    A caption that names a part of what another caption names is true of the other's picture too:
    such pairs are neither pulled together nor pushed apart.

    Args:
        image, text: (B, E) normalised features.
        scale: the logarithm of the inverse temperature.
        named: B sets of class names, read off the captions.
    """
    order = {key: k for k, key in enumerate(dict.fromkeys(named))}
    keys = list(order)
    part = torch.tensor([[t < i for t in keys] for i in keys])  # caption t says less than caption i
    groups = torch.tensor([order[key] for key in named])
    same = (groups[:, None] == groups[None, :]).float()
    logits = scale.exp() * image @ text.T
    logits = logits.masked_fill(part[groups][:, groups], -1e4)
    target = same / same.sum(1, keepdim=True)
    by_image = -(target * logits.log_softmax(1)).sum(1).mean()
    by_text = -(target * logits.T.log_softmax(1)).sum(1).mean()
    return (by_image + by_text) / 2


def learning_rate(part: Part, step: int, warm_up: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    done = step - part.begin
    if done < warm_up:
        return part.peak * (done + 1) / warm_up
    done = min(1.0, (done - warm_up) / (part.end - part.begin - warm_up))
    return part.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def keep_memory() -> Callable[[], None]:
    """Let glibc keep what is freed for the next step; elsewhere do nothing.

    By default each large tensor is mapped anew, and zeroing fresh pages takes up to 40 % of the
    time. Kept memory is scattered and grows by tens of MB a step; the function that is returned
    gives the surplus back and is called every few steps.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)
        trim = libc.malloc_trim
    except (OSError, AttributeError):
        return lambda: None
    return lambda: trim(0)


def save_model(model: nn.Module, tokens: list[int], embedding: Tensor, path: Path) -> None:
    """Write the state dict under OpenAI's names, float16; token rows never trained are zero."""
    state = model.state_dict()
    table = torch.zeros_like(state["token_embedding.weight"])
    table[tokens] = embedding.detach()
    state["token_embedding.weight"] = table
    arrays = {name: value.detach().half().numpy() for name, value in state.items()}
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(aside, path)


class Captioner:
    """Captions of training pictures as token rows, in a vocabulary of only what occurs.

    Args:
        scenes: what is to be seen on each picture.
        args: the command line.
    """

    def __init__(self, scenes: list[Scene], args: argparse.Namespace):
        templates = load_by_location("mmseg", "utils/get_templates.py").PREDEFINED_TEMPLATES
        self.templates = list(templates["imagenet"])
        self.tokenizer = load_by_location("clip", "simple_tokenizer.py").SimpleTokenizer()
        self.args = args
        rng = random.Random(args.seed)
        tokens = {0, 49406, 49407}
        for scene in scenes:
            caption = self.write(scene, rng, SCHEDULE[0].stuff_rate)
            tokens.update(self.tokenizer.encode(caption.text))
        self.tokens = sorted(tokens)
        self._row = {token: row for row, token in enumerate(self.tokens)}

    def write(self, scene: Scene, rng: random.Random, stuff_rate: float) -> Caption:
        """A caption for a picture."""
        args = self.args
        return write_caption(
            scene, rng, self.templates, args.template_rate, args.definition_rate, stuff_rate
        )

    def rows(self, captions: list[Caption]) -> tuple[Tensor, Tensor]:
        """Rows (B, T), T a multiple of 8, and the end tokens' positions (B,)."""
        texts = [[49406, *self.tokenizer.encode(c.text)[:75], 49407] for c in captions]
        length = -(-max(map(len, texts)) // 8) * 8
        rows = [[self._row[t] for t in text] + [0] * (length - len(text)) for text in texts]
        return torch.tensor(rows), torch.tensor([len(text) - 1 for text in texts])


def gather(features: Tensor, rank: int, workers: int) -> Tensor:
    """Features of all workers (workers · B, E); only this worker's own carry a gradient."""
    if workers == 1:
        return features
    parts = [torch.empty_like(features) for _ in range(workers)]
    torch.distributed.all_gather(parts, features.detach())
    parts[rank] = features
    return torch.cat(parts)


def sum_gradients(parameters: list[nn.Parameter], scale: nn.Parameter, workers: int) -> None:
    """Add up the workers' gradients; `scale` has its whole gradient in each of them."""
    if workers == 1:
        return
    scale.grad /= workers
    flat = torch.cat([p.grad.flatten() for p in parameters])
    torch.distributed.all_reduce(flat)
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad.copy_(part.view_as(parameter))


def train(rank: int, args: argparse.Namespace) -> None:
    """One of the workers: each takes its part of the batch, all hold the same weights."""
    work, workers = Path(args.work_dir), args.workers
    log_path, checkpoint = work / "log.jsonl", work / "checkpoint.pt"
    torch.set_num_threads(max(1, args.threads // workers))
    if workers > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{work.resolve()}/rendezvous", rank=rank, world_size=workers
        )
    folder = Path(args.pictures_dir or work)
    pictures, scenes = draw_pictures(folder, SIDE, args.pictures, TRAIN_SEED, 1)
    small, small_scenes = draw_pictures(folder, CELL, args.cells, CELL_SEED, 1)
    captioner = Captioner(scenes, args)
    model = build_model(args).train()
    embedding = nn.Parameter(model.token_embedding.weight.detach()[captioner.tokens].clone())
    model.token_embedding.weight.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad] + [embedding]
    free = [p for p in parameters if p.ndim < 2] + [embedding]  # of weight decay
    rest = [p for p in parameters if all(p is not q for q in free)]
    optimizer = torch.optim.AdamW(
        [
            {"params": rest, "weight_decay": args.weight_decay},
            {"params": free, "weight_decay": 0.0},
        ],
        lr=SCHEDULE[0].peak,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,
    )
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        embedding.data.copy_(state["embedding"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        if rank == 0:
            print(f"resuming at step {step} from {checkpoint}")
    blocks = torch.compile(run_blocks) if args.compile else run_blocks
    grid = (SIDE // args.patch) ** 2
    trim = keep_memory()
    sums, done, began = [0.0, 0.0], 0, time.time()
    bar = tqdm(total=args.steps, initial=step, desc="training", disable=rank > 0)
    while step < args.steps:
        # chance depends on seed and step alone, so that a resumed run goes on as it would have
        rng = random.Random(f"{args.seed}-{step}")
        generator = torch.Generator().manual_seed((args.seed * 1_000_003 + step) * workers + rank)
        part = [part for part in SCHEDULE if part.first <= step][-1]
        mosaic = part.mosaics and step % 3 > 0
        count = args.mosaic_batch if mosaic else args.batch
        chosen = rng.sample(range(args.cells if mosaic else args.pictures), count)
        source = small_scenes if mosaic else scenes
        captions = [captioner.write(source[k], rng, part.stuff_rate) for k in chosen]
        mine = slice(rank * (count // workers), (rank + 1) * (count // workers))
        rows, ends = captioner.rows(captions[mine])
        keep = cells = None
        if mosaic:
            laid, cells = lay_mosaics(small[chosen[mine]], args.patch, rng)
            x = augment(laid, generator, flips=False)
            reset = torch.ones(len(x), 1, 1, dtype=torch.bool)
        else:
            x = augment(pictures[chosen[mine]], generator)
            noise = torch.rand(len(x), grid, generator=generator)
            keep = noise.argsort(1)[:, : int(grid * args.keep)].sort(1).values
            reset = torch.rand(len(x), 1, 1, generator=generator) < args.reset_rate
        plain = torch.rand(len(x), 1, 1, generator=generator) < args.plain_rate
        rate = learning_rate(part, step, args.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            start = embed_patches(model.visual, x, keep)
            image = read_out(
                model.visual, blocks(model.visual, start), start[:, :1], reset, plain, cells
            )
            text = encode_text(model, rows, embedding, ends)
        image, text = (gather(F.normalize(f.float(), dim=-1), rank, workers) for f in (image, text))
        loss = contrastive_loss(image, text, model.logit_scale, [c.named for c in captions])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        sum_gradients(parameters, model.logit_scale, workers)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        step, done = step + 1, done + count
        if step % 25 == 0:
            trim()
        if rank > 0:
            continue
        sums = [sums[0] + loss.item(), sums[1] + norm.item()]
        bar.update()
        if step % 50 == 0:
            spent = time.time() - began
            line = {
                "step": step,
                "loss": round(sums[0] / 50, 4),
                "gradient": round(sums[1] / 50, 3),
                "lr": round(rate, 7),
                "scale": round(model.logit_scale.exp().item(), 2),
                "pairs_per_s": round(done / spent, 1),
                "seconds": round(spent, 1),
            }
            with open(log_path, "a") as file:
                file.write(json.dumps(line) + "\n")
            sums = [0.0, 0.0]
        if step % args.save_every == 0 or step == args.steps:
            state = {
                "model": model.state_dict(),
                "embedding": embedding.detach(),
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            torch.save(state, checkpoint.with_suffix(".part"))
            os.replace(checkpoint.with_suffix(".part"), checkpoint)
            save_model(model, captioner.tokens, embedding, Path(args.out))
    bar.close()
    if rank == 0:
        digest = hashlib.sha256(Path(args.out).read_bytes()).hexdigest()
        print(f"{args.out}: {Path(args.out).stat().st_size / 1e6:.2f} MB, sha256 {digest}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", required=True, help="the model to write, .npz")
    parser.add_argument(
        "--work-dir", default="work_dirs/storybook_tiny", help="pictures, log and checkpoint"
    )
    parser.add_argument("--pictures-dir", default=None, help="pictures, if not in --work-dir")
    parser.add_argument("--pictures", type=int, default=50_000, help="different training pictures")
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="processes that share each batch; results depend on their number",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of all workers")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the blocks (wants a C++ compiler; about twice as fast)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7400)
    parser.add_argument("--batch", type=int, default=64, help="whole pictures a step")
    parser.add_argument("--warm-up", type=int, default=200, help="steps")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--width", type=int, default=128, help="of the vision tower")
    parser.add_argument("--embed", type=int, default=128, help="of the shared space")
    parser.add_argument("--text-width", type=int, default=64)
    parser.add_argument("--text-layers", type=int, default=4)
    parser.add_argument(
        "--last-gain",
        type=float,
        default=6.0,
        help="the last output projection starts this much larger",
    )
    parser.add_argument(
        "--keep",
        type=float,
        default=0.4,
        help="share of a whole picture's patches seen in training",
    )
    parser.add_argument("--cells", type=int, default=40_000, help="different pictures for mosaics")
    parser.add_argument("--mosaic-batch", type=int, default=128, help="small pictures a step")
    parser.add_argument(
        "--reset-rate",
        type=float,
        default=0.7,
        help="how often [CLS] starts anew in the last block",
    )
    parser.add_argument(
        "--plain-rate",
        type=float,
        default=0.5,
        help="how often the last feed-forward part is left out",
    )
    parser.add_argument("--template-rate", type=float, default=0.6)
    parser.add_argument("--definition-rate", type=float, default=0.12)
    parser.add_argument("--save-every", type=int, default=250, help="steps")
    args = parser.parse_args()
    if args.batch % args.workers or args.mosaic_batch % (4 * args.workers):
        parser.error(
            f"{args.workers} workers cannot share batches of {args.batch} pictures and "
            f"{args.mosaic_batch // 4} mosaics"
        )
    work = Path(args.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    (work / "rendezvous").unlink(missing_ok=True)
    (work / "arguments.json").write_text(json.dumps(vars(args), indent=1))
    folder = Path(args.pictures_dir or work)
    draw_pictures(folder, SIDE, args.pictures, TRAIN_SEED, args.threads)
    draw_pictures(folder, CELL, args.cells, CELL_SEED, args.threads)
    if args.workers == 1:
        train(0, args)
    else:
        torch.multiprocessing.spawn(train, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
