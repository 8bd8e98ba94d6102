"""The newest token's attention in bfloat16, `luna_kernel.model.decode_attention`, beside PyTorch's kernel, in one run.

    python benchmarks/decode_attention.py [--cached 64 256 1024 4096] [--rounds 15] [--threads 1]

Heads as in the preset `base` (12 that share 4 keys) and in a Llama of 1 B (32 that share 8), 64 numbers each. Turns go
A B A B …; the ratio is that of neighbouring turns, the median and the middle half. Errors are relative to double
precision.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from luna_kernel.model.decode_attention import attend_newest

REPEATS = 20


def measure(heads: int, shared: int, rows: int, cached: int, rounds: int) -> str:
    """One line."""
    q = torch.randn(rows, heads, 1, 64).bfloat16()
    k, v = (torch.randn(rows, shared, cached + 256, 64).bfloat16()[:, :, :cached] for _ in range(2))

    def kernel(*given: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*given, enable_gqa=True)

    ways: dict[str, Callable[[], Tensor]] = {
        "luna": lambda: attend_newest(q, k, v, None),
        "torch": lambda: kernel(q, k, v),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 2):
        for name, way in ways.items():
            begin = time.perf_counter()
            for _ in range(REPEATS):
                way()
            if turn >= 2:
                times[name].append(1e6 * (time.perf_counter() - begin) / REPEATS)
    ratios = sorted(a / b for a, b in zip(times["luna"], times["torch"], strict=True))
    exact = kernel(q.double(), k.double(), v.double())
    errors = {name: float((way().double() - exact).norm() / exact.norm()) for name, way in ways.items()}
    micro = " ".join(f"{name} {statistics.median(values):8.0f} µs" for name, values in times.items())
    low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    wrong = " ".join(f"{name} {value:.1e}" for name, value in errors.items())
    return f"{micro}   x {statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})   error {wrong}"


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cached", type=int, nargs="+", default=[64, 256, 1024, 4096], help="tokens before it")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with torch.inference_mode():
        for heads, shared in ((12, 4), (32, 8)):
            for cached in given.cached:
                for rows in given.rows:
                    line = measure(heads, shared, rows, cached, given.rounds)
                    print(f"{heads:2} heads, {shared} keys, S {cached:4}, B {rows}:  {line}", flush=True)


if __name__ == "__main__":
    main()
