"""The backward pass of `luna_kernel.model.short_attention` beside that of PyTorch's attention, bfloat16, in one run.

    python benchmarks/short_attention.py [--lengths 128,256,512,1024] [--rounds 15] [--json FILE]

8 × 6 heads of 64 numbers, causal; turns go A B A B …; ratios are of neighbouring turns, the median and the
middle half of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from luna_kernel.model.short_attention import LONGEST, ShortAttention


def measure(length: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of both backward passes at T `length`."""
    shape = (8, length, 6, 64)
    q, k, v, grad = (torch.randn(shape).bfloat16().transpose(1, 2) for _ in range(4))
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    contenders = {
        "luna": lambda: ShortAttention.apply(*inputs, None),  # type: ignore[no-untyped-call]
        "torch": lambda: F.scaled_dot_product_attention(*inputs, is_causal=True),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 2):
        for name, forward in contenders.items():
            y = forward()
            begin = time.perf_counter()
            torch.autograd.grad(y, inputs, grad)
            if turn >= 2:
                times[name].append(1000 * (time.perf_counter() - begin))
    ratios = sorted(a / b for a, b in zip(times["luna"], times["torch"], strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4)
    figures = {name: statistics.median(values) for name, values in times.items()}
    return {"length": length, "milliseconds": figures, "ratio": middle, "middle_half": [low, high]}


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="128,256,512,1024")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; taken up to T {LONGEST}")
    rows = []
    for length in map(int, given.lengths.split(",")):
        row = measure(length, given.rounds)
        rows.append(row)
        low, high = row["middle_half"]
        ours, theirs = row["milliseconds"]["luna"], row["milliseconds"]["torch"]
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        print(f"T {length:5}  {ours:7.1f} ms  torch {theirs:7.1f} ms  ratio {ratio}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
