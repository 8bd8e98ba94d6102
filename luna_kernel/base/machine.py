"""What this machine is, read from the system without importing any library."""

from __future__ import annotations

import contextlib
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


def memory_speed(size: int = 64 << 20, rounds: int = 3) -> float:
    """Bytes per second that one core reads: the fastest of some copies, each of which reads and writes `size` bytes."""
    source, target = memoryview(bytearray(size)), memoryview(bytearray(size))
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        target[:] = source
        best = min(best, time.perf_counter() - begin)
    return 2 * size / max(best, 1e-9)
