"""Products in float32 by oneDNN and by PyTorch's choice, on this processor, in one run.

    python benchmarks/float32_products.py [--rounds 9] [--threads 1] [--megabytes 0]

x (rows, in) with a matrix (out, in), as `luna_kernel.model.linear` sees them; "packed" is oneDNN with the matrix in its
own order (`luna_kernel.model.packed`). Lines of `training` are the product and those of both its gradients, with what
`luna train` does for them. Turns go A B C A B C …; ratios are those of neighbouring turns to PyTorch's, the median with
the lowest and the highest. The last column is what the kernel takes here without packing. With `--megabytes` each turn
goes through so many different matrices: more than the processor's cache holds, as in a model of that size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F

from luna_kernel.base.machine import cpu
from luna_kernel.model.linear import (
    FEWEST_ALONE,
    FEWEST_PRODUCTS,
    FEWEST_ROWS,
    float32_by_onednn,
    onednn_is_faster,
)

SHAPES = ((128, 384), (128, 4096), (384, 1024), (768, 2048), (2048, 768), (2048, 8192))
ROWS = (1, 4, 32)
TRAINING_ROWS = (256, 2048)


def measure(inner: int, outer: int, rows: int, rounds: int, megabytes: float) -> str:
    """One line."""
    product = torch.ops.mkldnn._linear_pointwise
    count = max(1, int(megabytes * 1e6 / (4 * inner * outer)))
    x, weights = torch.randn(rows, inner), [torch.randn(outer, inner) for _ in range(count)]
    packed = [torch.ops.mkldnn._reorder_linear_weight(weight, None) for weight in weights]
    ways = {
        "PyTorch": lambda: [F.linear(x, weight) for weight in weights],
        "oneDNN": lambda: [product(x, weight, None, "none", [], "") for weight in weights],
        "packed": lambda: [product(x, weight, None, "none", [], "") for weight in packed],
    }
    numbers = inner * outer
    times = take_turns(ways, max(1, (1 << 24) // (rows * numbers * count)), rounds)
    many = numbers >= FEWEST_ALONE if rows == 1 else rows >= FEWEST_ROWS and rows * numbers >= FEWEST_PRODUCTS
    return describe(times, count, taken=many and onednn_is_faster())


def measure_training(inner: int, outer: int, rows: int, rounds: int) -> str:
    """One line, of a product and of both its gradients."""
    x, weight = torch.randn(rows, inner, requires_grad=True), torch.randn(outer, inner, requires_grad=True)
    grad = torch.randn(rows, outer)

    def plain() -> None:
        torch.autograd.grad(F.linear(x, weight), (x, weight), grad)

    def trained() -> None:
        with float32_by_onednn():
            plain()

    times = take_turns({"PyTorch": plain, "oneDNN": trained}, max(2, (1 << 22) // (rows * weight.numel())), rounds)
    with float32_by_onednn() as taken:
        return describe(times, 1, taken=taken)


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


def describe(times: Mapping[str, list[float]], count: int, *, taken: bool) -> str:
    """The time of one of `count` products, the ratios to PyTorch's, and what the kernel takes."""
    said = [f"PyTorch {statistics.median(times['PyTorch']) / count:8.0f} µs"]
    for name, values in times.items():
        if name != "PyTorch":
            ratios = sorted(a / b for a, b in zip(values, times["PyTorch"], strict=True))
            said.append(f"{name} x {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return "   ".join([*said, "oneDNN" if taken else "PyTorch"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--megabytes", type=float, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{cpu()['model']}, torch {torch.__version__}, {given.threads} thread(s)")
    with torch.inference_mode():
        for inner, outer in SHAPES:
            for rows in ROWS:
                line = measure(inner, outer, rows, given.rounds, given.megabytes)
                print(f"{inner:5} to {outer:5}, {rows:4} rows:            {line}", flush=True)
    for inner, outer in SHAPES:
        for rows in TRAINING_ROWS:
            line = measure_training(inner, outer, rows, given.rounds)
            print(f"{inner:5} to {outer:5}, {rows:4} rows, training:  {line}", flush=True)


if __name__ == "__main__":
    main()
