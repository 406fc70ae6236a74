"""The MLP of one block with each activation: fused as the encoder runs it, and as modules.

    python benchmarks/activation.py

Prints the median of repeated runs, made in turns, with their quartiles, for ViT-B/16's tokens of
eight windows; processor time, so that other work on the machine counts little.
"""

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from itaclip.clip_model import clip_module
from itaclip.recipes.tower import add_feed_forward

ACTIVATIONS = {
    "quick_gelu": lambda: clip_module("model").QuickGELU(),
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--windows", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(0)
    block = clip_module("model").ResidualAttentionBlock(args.width, args.width // 64).eval()
    tokens = torch.randn(args.windows, 197, args.width)

    blocks = {}
    for name, activation in ACTIVATIONS.items():
        blocks[name] = copy.deepcopy(block)
        blocks[name].mlp.gelu = activation()
    ways = {"fused": add_feed_forward, "modules": lambda b, x: x + b.mlp(b.ln_2(x))}
    seconds = {(name, how): [] for name in blocks for how in ways}
    for repeat in range(args.repeats + 1):  # in turns, so that all see the same machine
        for (name, how), own in seconds.items():
            start = time.process_time()
            ways[how](blocks[name], tokens)
            if repeat:
                own.append(time.process_time() - start)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, tokens {tokens.shape}")
    for (name, how), own in seconds.items():
        low, median, high = (1e3 * s for s in statistics.quantiles(own, n=4))
        print(f"{name:>10} {how:>8}: {median:6.1f} ms of processor ({low:.1f}-{high:.1f})")


if __name__ == "__main__":
    main()
