"""Products in float32 by oneDNN and by PyTorch's choice, on this processor, in one run.

    python benchmarks/float32_products.py [--rounds 9] [--threads 1]

x (rows, in) with a matrix (out, in), as `luna_kernel.model.linear` sees them; turns go A B A B …; the ratio is that of
neighbouring turns, the median with the lowest and the highest, and below 1 where oneDNN is faster. The last column is
what the kernel takes here. Lines of `training` are the product and those of both its gradients, with what `luna train`
does for them and without.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F

from luna_kernel.base.machine import cpu
from luna_kernel.model.linear import FEWEST_PRODUCTS, FEWEST_ROWS, float32_by_onednn, onednn_is_faster

SHAPES = ((128, 384), (128, 4096), (384, 1024), (768, 2048), (2048, 768), (2048, 8192))
ROWS = (1, 4, 8, 32, 256)
TRAINING_ROWS = (256, 2048)


def measure(inner: int, outer: int, rows: int, rounds: int) -> str:
    """One line."""
    x, weight = torch.randn(rows, inner), torch.randn(outer, inner)
    ways = {
        "oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""),
        "PyTorch": lambda: F.linear(x, weight),
    }
    repeats = max(2, (1 << 24) // (rows * weight.numel()))
    times = take_turns(ways, repeats, rounds)
    taken = rows >= FEWEST_ROWS and rows * weight.numel() >= FEWEST_PRODUCTS and onednn_is_faster()
    return f"{describe(times)}   {'oneDNN' if taken else 'PyTorch'}"


def measure_training(inner: int, outer: int, rows: int, rounds: int) -> str:
    """One line, of a product and of both its gradients."""
    x, weight = torch.randn(rows, inner, requires_grad=True), torch.randn(outer, inner, requires_grad=True)
    grad = torch.randn(rows, outer)

    def plain() -> None:
        torch.autograd.grad(F.linear(x, weight), (x, weight), grad)

    def trained() -> None:
        with float32_by_onednn():
            plain()

    times = take_turns({"oneDNN": trained, "PyTorch": plain}, max(2, (1 << 22) // (rows * weight.numel())), rounds)
    return f"{describe(times)}   {'oneDNN' if taken_in_training() else 'PyTorch'}"


def taken_in_training() -> bool:
    """Whether `luna train` has oneDNN multiply here."""
    with float32_by_onednn() as taken:
        return taken


def take_turns(ways: Mapping[str, Callable[[], object]], repeats: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of each way in each round, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            begin = time.process_time()
            for _ in range(repeats):
                way()
            if turn:
                times[name].append(1e6 * (time.process_time() - begin) / repeats)
    return times


def describe(times: Mapping[str, list[float]]) -> str:
    """Medians and their ratio."""
    ratios = sorted(a / b for a, b in zip(times["oneDNN"], times["PyTorch"], strict=True))
    micro = " ".join(f"{name} {statistics.median(values):8.0f} µs" for name, values in times.items())
    return f"{micro}   x {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


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
                line = measure(inner, outer, rows, given.rounds)
                print(f"{inner:5} to {outer:5}, {rows:4} rows:            {line}", flush=True)
    for inner, outer in SHAPES:
        for rows in TRAINING_ROWS:
            line = measure_training(inner, outer, rows, given.rounds)
            print(f"{inner:5} to {outer:5}, {rows:4} rows, training:  {line}", flush=True)


if __name__ == "__main__":
    main()
