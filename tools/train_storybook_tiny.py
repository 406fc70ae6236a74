"""Train storybook-tiny, the small CLIP that ships with the project, from nothing.

    python tools/train_storybook_tiny.py --out model.npz

Pictures and captions only: the loss is CLIP's, no mask is ever read. The training is seeded, keeps
a checkpoint from which it resumes, and writes a log with a line of JSON every 50 steps.
"""

import argparse
import json
import math
import os
import random
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from storybook_training.learning import (  # noqa: E402
    SCHEDULE,
    Captioner,
    contrastive_loss,
    gather,
    keep_memory,
    learning_rate,
    sum_gradients,
)
from storybook_training.model import (  # noqa: E402
    build_model,
    embed_patches,
    encode_text,
    read_out,
    run_blocks,
    save_model,
)
from storybook_training.pictures import (  # noqa: E402
    CELL,
    SIDE,
    augment,
    draw_pictures,
    lay_mosaics,
)

from itaclip.runtime.files import atomic_write, sha256_of  # noqa: E402

TRAIN_SEED, CELL_SEED = 20_002, 20_003


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
    model = build_model(args, SIDE).train()
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
            with atomic_write(checkpoint) as aside:
                torch.save(state, aside)
            save_model(model, captioner.tokens, embedding, Path(args.out))
    bar.close()
    if rank == 0:
        digest = sha256_of(args.out)
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
