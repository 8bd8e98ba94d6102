"""What this machine is, read from the system without importing any library."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import time
from pathlib import Path

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")
"""What decides how fast the CPU multiplies matrices."""


def cpu() -> dict[str, object]:
    """`model`, `cores` that this process may use, and the `flags` that matter for speed."""
    model, flags = platform.processor() or platform.machine(), []
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                model = value
            elif key in ("flags", "Features"):
                flags = [flag for flag in _FLAGS if flag in value.split()]
                break
    return {"model": model, "cores": cores(), "flags": flags}


def cores() -> int:
    """Cores that this process may use: the affinity, and the quota of its control group if that is less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        count = min(count, max(1, round(int(quota) / int(period))))
    return count


def memory() -> dict[str, int | None]:
    """Bytes of memory: `total` (the control group's limit if that is less) and `available`, None where unknown."""
    found: dict[str, int | None] = {"total": None, "available": None}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            key, value = line.split()[:2]
            if key in ("MemTotal:", "MemAvailable:"):
                found["total" if key == "MemTotal:" else "available"] = int(value) * 1024
    total = found["total"]
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        found["total"] = limit if total is None else min(total, limit)
        available = found["available"]
        found["available"] = limit - used if available is None else min(available, limit - used)
    return found


def last_level_cache() -> int | None:
    """Bytes of the largest cache of the first core, None where the system does not say."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            text = file.read_text(encoding="ascii").strip()
            sizes.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0))
    return max(sizes, default=None)


def memory_speed(size: int | None = None, rounds: int = 3) -> float | None:
    """Bytes per second that one core reads from memory.

    A buffer is read `rounds` times over, a stretch at a time, into one small piece that stays in the cache; the fastest
    stretch counts, so that a neighbour on the core does not. The buffer is given back to the system.

    Args:
        size: of the buffer; None: twice the last-level cache, so that what is read has left it. 64 MiB where that is
            not known.

    Returns:
        None where a tenth of the available memory is less than the buffer.
    """
    size = size or 2 * (last_level_cache() or 32 << 20)
    available = memory()["available"]
    if available is not None and size > available // 10:
        return None
    stretch, piece = min(size, 4 << 20), min(size, 128 << 10)
    target, best = memoryview(bytearray(piece)), float("inf")
    with mmap.mmap(-1, size) as held, memoryview(held) as source:
        for start in range(0, size, piece):
            source[start : start + piece] = target[: size - start]  # its pages are real from here on
        for first in [*range(0, size - stretch + 1, stretch)] * rounds:
            begin = time.perf_counter()
            for start in range(first, first + stretch, piece):
                target[:] = source[start : start + piece]
            best = min(best, time.perf_counter() - begin)
    return stretch / max(best, 1e-9)
