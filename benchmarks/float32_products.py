"""Products in float32 by oneDNN and by PyTorch's choice, on this processor, in one run.

    python benchmarks/float32_products.py [--rounds 9] [--threads 1]

x (rows, in) with a matrix (out, in), as `luna_kernel.model.linear` sees them; turns go A B A B …; the ratio is that of
neighbouring turns, the median with the lowest and the highest, and below 1 where oneDNN is faster. The last column is
what the kernel takes here.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn import functional as F

from luna_kernel.base.machine import cpu
from luna_kernel.model.linear import FEWEST_PRODUCTS, FEWEST_ROWS, onednn_is_faster

SHAPES = ((128, 384), (128, 4096), (384, 1024), (768, 2048), (2048, 768), (2048, 8192))
ROWS = (1, 4, 8, 32, 256)


def measure(inner: int, outer: int, rows: int, rounds: int) -> str:
    """One line."""
    x, weight = torch.randn(rows, inner), torch.randn(outer, inner)
    ways = {
        "oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""),
        "PyTorch": lambda: F.linear(x, weight),
    }
    repeats = max(2, (1 << 24) // (rows * weight.numel()))
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            begin = time.process_time()
            for _ in range(repeats):
                way()
            if turn:
                times[name].append(1e6 * (time.process_time() - begin) / repeats)
    ratios = sorted(a / b for a, b in zip(times["oneDNN"], times["PyTorch"], strict=True))
    taken = rows >= FEWEST_ROWS and rows * weight.numel() >= FEWEST_PRODUCTS and onednn_is_faster()
    micro = " ".join(f"{name} {statistics.median(values):8.0f} µs" for name, values in times.items())
    spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return f"{micro}   x {statistics.median(ratios):.2f} {spread}   {'oneDNN' if taken else 'PyTorch'}"


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{cpu()['model']}, torch {torch.__version__}, {given.threads} thread(s)")
    with torch.inference_mode():
        for inner, outer in SHAPES:
            for rows in ROWS:
                print(
                    f"{inner:5} to {outer:5}, {rows:3} rows:  {measure(inner, outer, rows, given.rounds)}", flush=True
                )


if __name__ == "__main__":
    main()
