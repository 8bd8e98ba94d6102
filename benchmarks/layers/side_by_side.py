"""Time several modules in one run, A B A B, and print each as a ratio to the first with its spread."""

from __future__ import annotations

import ctypes
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def rounds(cases: Mapping[str, Callable[[], object]], count: int, threads: int, warm: int = 1) -> dict[str, list[float]]:
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
