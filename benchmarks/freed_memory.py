"""A training step with freed memory kept for the next step, as `luna train` does, and without.

    python benchmarks/freed_memory.py --layers none moe --precision fp32 bf16 --rows 1 8

Preset `tiny` with four blocks, AdamW, gradient clipping, rows of 256 tokens, one thread. Each turn is a process of its
own; the two ways alternate. Printed are the median seconds of the processor per step, the page faults of the last step
and the process's peak memory, each as kept / returned, and the ratio of the seconds turn by turn with its spread.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

VOCAB, LENGTH = 8192, 256


def turn(layers: str, precision: str, rows: int, steps: int) -> dict[str, float]:
    """Some steps in this process."""
    import torch

    from luna_kernel.model.blueprint import Blueprint, model_components
    from luna_kernel.model.decoder import Decoder
    from luna_kernel.plugins import load_plugins

    torch.set_num_threads(1)
    torch.manual_seed(0)
    plugins = load_plugins(layers)
    blueprint = Blueprint.from_preset(
        "tiny", plugins.registry, vocab_size=VOCAB, components=model_components(plugins), dims={"num_layers": 4}
    )
    model = Decoder(blueprint, plugins.registry)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.randint(0, VOCAB, (rows, LENGTH + 1))
    seconds, faults = [], 0
    for _ in range(steps + 2):
        begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model.token_losses(tokens[:, :-1], tokens[:, 1:])
        loss = output.sum_loss / (rows * LENGTH)
        for extra in output.losses.values():
            loss = loss + extra
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.process_time() - begin)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    peak = int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024
    return {"seconds": statistics.median(seconds[2:]), "faults": faults, "peak": peak}


def compare(layers: str, precision: str, rows: int, args: argparse.Namespace) -> None:
    """Both ways in turn, and one line."""
    found: dict[str, list[dict[str, float]]] = {"kept": [], "returned": []}
    for _ in range(args.rounds):
        for way, turns in found.items():
            command = [sys.executable, __file__, "--turn", way, "--steps", str(args.steps)]
            command += ["--layers", layers, "--precision", precision, "--rows", str(rows)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            turns.append(json.loads(done.stdout.splitlines()[-1]))
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(found["kept"], found["returned"], strict=True)]

    def both(key: str, factor: float = 1.0) -> str:
        return " / ".join(f"{statistics.median(turn[key] for turn in turns) * factor:.0f}" for turns in found.values())

    print(
        f"{layers:8} {precision} {rows:3} x {LENGTH}   {both('seconds', 1000)} ms   x {statistics.median(ratios):.3f}"
        f" ({min(ratios):.3f} to {max(ratios):.3f})   {both('faults')} faults   {both('peak')} MiB"
    )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", nargs="+", default=["none", "moe"], help="selections of plugins")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turn", choices=["kept", "returned"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        from luna_kernel.base.freed_memory import keep_freed_memory

        with keep_freed_memory() if args.turn == "kept" else nullcontext():
            print(json.dumps(turn(args.layers[0], args.precision[0], args.rows[0], args.steps)))
        return
    for layers in args.layers:
        for precision in args.precision:
            for rows in args.rows:
                compare(layers, precision, rows, args)


if __name__ == "__main__":
    main()
