"""Time several modules in one run, A B A B, and print each as a ratio to the first with its spread."""

from __future__ import annotations

import argparse
import ctypes
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luna_kernel.base.freed_memory import keep_freed_memory
from luna_kernel.model.linear import float32_by_onednn


def rounds(
    cases: Mapping[str, Callable[[], object]], count: int, threads: int, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each case in each round; `warm` rounds that do not count, then the cases in turn.

    With one thread they are the processor's seconds of this process, which a busy neighbour disturbs less.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(count + warm):
        for name, case in cases.items():
            start = clock()
            case()
            if number >= warm:
                times[name].append(clock() - start)
    return times


def as_it_comes(case: Callable[[], object]) -> Callable[[], object]:
    """The case with float32 products as PyTorch takes them by itself, where the others' go by oneDNN."""
    settings = getattr(torch.backends.mkldnn, "matmul", None)

    def run() -> None:
        before = settings.fp32_precision  # type: ignore[union-attr]
        settings.fp32_precision = "none"  # type: ignore[union-attr]
        try:
            case()
        finally:
            settings.fp32_precision = before  # type: ignore[union-attr]

    return run if getattr(settings, "fp32_precision", "none") != "none" else case


@contextmanager
def as_in_training(args: argparse.Namespace) -> Iterator[None]:
    """What `luna train` does around its steps, unless the options of `add_training` say otherwise."""
    with (
        keep_freed_memory() if args.freed == "kept" else nullcontext(),
        float32_by_onednn() if args.float32 == "onednn" else nullcontext(),
    ):
        yield


def add_training(parser: argparse.ArgumentParser) -> None:
    """Options of `as_in_training`."""
    parser.add_argument("--freed", choices=["kept", "returned"], default="kept", help="memory freed by a step")
    parser.add_argument("--float32", choices=["onednn", "mkl"], default="onednn", help="who multiplies, where it may")


Notes = dict[str, dict[str, float]]
"""Of each case other figures, by their units."""


def print_table(title: str, times: Mapping[str, list[float]], base: str, notes: Notes | None = None) -> dict[str, Any]:
    """Median milliseconds, and the ratio to `base` round by round: median, lowest and highest; given back too."""
    print(f"\n{title}")
    width = max(map(len, times))
    rows: dict[str, dict[str, float]] = {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, times[base], strict=True)]
        more = (notes or {}).get(name, {})
        row = {"ms": statistics.median(values) * 1e3, "ratio": statistics.median(ratios)}
        rows[name] = row | {"lowest": min(ratios), "highest": max(ratios)} | more
        print(
            f"  {name:{width}}  {row['ms']:9.1f} ms   x{row['ratio']:6.3f}  ({min(ratios):.3f} to {max(ratios):.3f})  "
            + ", ".join(f"{value:8.3f} {unit}" for unit, value in more.items())
        )
    return {"title": title, "base": base, "rows": rows}


def saved_bytes(run: Callable[[], Tensor], parameters: set[int]) -> int:
    """Bytes that autograd keeps for the backward pass of `run`, each storage once, parameters left out."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    total = sum(seen.values())
    del output
    return total


def peak_bytes(step: Callable[[], object]) -> int:
    """By how much the memory of this process grows at most while `step` runs; Linux only, 0 elsewhere."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return 0

    def kilobytes(field: str) -> int:
        found = re.search(rf"{field}:\s+(\d+)", status.read_text())
        return int(found[1]) if found else 0

    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not serve it unseen
    reset.write_text("5")
    before = kilobytes("VmRSS")
    step()
    return 1024 * (kilobytes("VmHWM") - before)
