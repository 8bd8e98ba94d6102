"""Memory and time of activation checkpointing: one training step with no, every second, and every block recomputed.

    python benchmarks/activation_checkpointing.py [--d 256] [--layers 8] [--tokens 512] [--batch 4] [--rounds 5]

One dense model, forward and backward, A B A B in one process for the times; the peak of the resident memory above that
before the step is taken in a process of its own for each.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

CHOICES = {"none": 0, "2": 2, "blocks": 1}


def make(args: argparse.Namespace) -> tuple[Decoder, torch.Tensor]:
    """The model and ids (B, T + 1)."""
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    heads = max(args.d // 64, 1)
    dims = {
        "d_model": args.d, "num_layers": args.layers, "num_heads": heads, "num_kv_heads": heads,
        "head_dim": args.d // heads, "ffn_dim": 3 * args.d, "max_positions": args.tokens,
    }  # fmt: skip
    registry = load_plugins("none").registry
    model = Decoder(Blueprint.from_preset("mini", registry, vocab_size=4096, dims=dims), registry).train()
    return model, torch.randint(0, 4096, (args.batch, args.tokens + 1))


def step(model: Decoder, tokens: torch.Tensor) -> None:
    """Forward and backward."""
    model.zero_grad()
    model.token_losses(tokens[:, :-1], tokens[:, 1:]).sum_loss.backward()  # type: ignore[no-untyped-call]


def peak(args: argparse.Namespace) -> None:
    """In a process of its own: MiB that two steps add to the peak of the resident memory, gradients included."""
    model, tokens = make(args)
    model.recompute_every = CHOICES[args.only]
    step(model, tokens[:1, :9])
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    before = resident()
    for _ in range(2):
        step(model, tokens)
    print(resident() - before)


def resident() -> float:
    """MiB of this program's own peak (getrusage would count its parent's too)."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("d", 256), ("layers", 8), ("tokens", 512), ("batch", 4), ("rounds", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", choices=CHOICES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        peak(args)
        return
    model, tokens = make(args)
    times: dict[str, list[float]] = {name: [] for name in CHOICES}
    for number in range(args.rounds + 1):
        for name, every in CHOICES.items():
            model.recompute_every = every
            begin = time.process_time()
            step(model, tokens)
            if number:
                times[name].append(time.process_time() - begin)
    print(f"B {args.batch}, T {args.tokens}, D {args.d}, {args.layers} blocks, fp32, {args.threads} thread(s)")
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times["none"], strict=True)]
        command = [sys.executable, *sys.argv, "--only", name]
        grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(
            f"  {name:7} {statistics.median(values) * 1e3:8.0f} ms  x{statistics.median(ratios):.3f}"
            f" ({min(ratios):.3f} to {max(ratios):.3f})  peak above the start {grown:7.1f} MiB"
        )


if __name__ == "__main__":
    main()
