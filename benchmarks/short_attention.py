"""`luna_kernel.model.short_attention` beside PyTorch's attention, in one run.

    python benchmarks/short_attention.py [--dtype bf16] [--lengths 128,256,512,1024] [--rounds 15] [--json FILE]

8 × 6 heads of 64 numbers (`--heads`, `--head-dim`), causal; turns go A B A B …; ratios are of neighbouring turns, the
median and the middle half of them. bf16: the backward pass. fp32: forward and backward, with products by oneDNN where
it is faster; `mkl` is PyTorch's attention as it comes. Freed memory is kept, as in `luna train`. With one thread times
are the processor's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from luna_kernel.base.freed_memory import keep_freed_memory
from luna_kernel.model.linear import float32_by_onednn
from luna_kernel.model.short_attention import LONGEST, ShortAttention


def contenders(given: argparse.Namespace, length: int) -> dict[str, Callable[[], float]]:
    """Each a turn at T `length` that gives its seconds."""
    low = given.dtype == "bf16"
    shape = (8, length, given.heads, given.head_dim)
    dtype = torch.bfloat16 if low else torch.float32
    q, k, v, grad = (torch.randn(shape, dtype=dtype).transpose(1, 2) for _ in range(4))
    inputs = [x.detach().requires_grad_() for x in (q, k, v)]
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def luna() -> Tensor:
        y: Tensor = ShortAttention.apply(*inputs, None)  # type: ignore[no-untyped-call]
        return y

    def torch_() -> Tensor:
        return F.scaled_dot_product_attention(*inputs, is_causal=True)

    def turn(forward: Callable[[], Tensor], onednn: bool) -> float:
        with float32_by_onednn() if onednn else nullcontext():
            begin = clock()
            y = forward()
            begin = clock() if low else begin
            torch.autograd.grad(y, inputs, grad)
            return clock() - begin

    found = {"luna": lambda: turn(luna, not low), "torch": lambda: turn(torch_, not low)}
    return found if low else found | {"mkl": lambda: turn(torch_, False)}


def measure(given: argparse.Namespace, length: int) -> dict[str, Any]:
    """Milliseconds at T `length`, and Luna's ratio to each of the others."""
    turns = contenders(given, length)
    times: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(given.rounds + 2):
        for name, turn in turns.items():
            seconds = turn()
            if number >= 2:
                times[name].append(1000 * seconds)
    ratios = {}
    for name in list(times)[1:]:
        found = [a / b for a, b in zip(times["luna"], times[name], strict=True)]
        low, middle, high = statistics.quantiles(found, n=4)
        ratios[name] = {"ratio": middle, "middle_half": [low, high]}
    return {"length": length, "milliseconds": {n: statistics.median(v) for n, v in times.items()}, "to": ratios}


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--lengths", default="128,256,512,1024")
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.dtype}; taken up to T {LONGEST}")
    rows = []
    for length in map(int, given.lengths.split(",")):
        with keep_freed_memory():
            row = measure(given, length)
        rows.append(row)
        times = ", ".join(f"{name} {each:.1f} ms" for name, each in row["milliseconds"].items())
        others = ", ".join(
            f"{each['ratio']:.2f} of {name} ({each['middle_half'][0]:.2f} to {each['middle_half'][1]:.2f})"
            for name, each in row["to"].items()
        )
        print(f"T {length:5}  {times}: {others}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
