"""A block's matrix products by other means: bf16, weights packed for oneDNN, int8.

    OMP_NUM_THREADS=1 python benchmarks/products.py

Ten windows of ViT-B/16 on one thread, the process's own seconds, so that work beside it matters
less. int8 is dynamic: a scale for each output channel of the weights, one for the activations.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

PRODUCTS = dict(qkv=(768, 2304), fc=(768, 3072), proj=(3072, 768))
_ROWS = 1970


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", category=UserWarning)
    print("| product | means | ms | of fp32's time | relative error |\n|---|---|---|---|---|")
    for name, (inputs, outputs) in PRODUCTS.items():
        layer, x = nn.Linear(inputs, outputs).requires_grad_(False), torch.randn(_ROWS, inputs)
        exact, ways = layer(x), ways_of(layer, x)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for attempt in range(repeats + 1):
            for way, run in ways.items():
                start = time.process_time()
                run()
                if attempt:
                    times[way].append(time.process_time() - start)
        plain = statistics.median(times["fp32"])
        for way, run in ways.items():
            median = statistics.median(times[way])
            error = float((run().float() - exact).norm() / exact.norm())
            print(f"| {name} | {way} | {1e3 * median:.1f} | {median / plain:.2f} | {error:.1e} |")


def ways_of(layer: nn.Linear, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The product of a layer (O, I) with inputs (N, I) by each means."""
    low, low_x = nn.Linear(layer.in_features, layer.out_features).bfloat16(), x.bfloat16()
    low.load_state_dict(layer.state_dict())
    low.requires_grad_(False)
    scale = layer.weight.abs().amax(1).double() / 127
    zero = torch.zeros(len(scale), dtype=torch.long)
    quantised = torch.quantize_per_channel(layer.weight, scale, zero, 0, torch.qint8)
    int8 = torch.ops.quantized.linear_prepack(quantised, layer.bias)
    return {
        "fp32": lambda: layer(x),
        "fp32, packed": packed(layer, x),
        "bf16": lambda: low(low_x),
        "bf16, packed": packed(low, low_x),
        "int8": lambda: torch.ops.quantized.linear_dynamic(x, int8, True),
    }


def packed(layer: nn.Linear, x: Tensor) -> Callable[[], Tensor]:
    weight = layer.weight.detach().to_mkldnn()
    return lambda: torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "none", [], "")


if __name__ == "__main__":
    main()
