"""How threads wait for each other. Call before torch is imported."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

SPINS = 5000
"""Turns that an idle thread of OpenMP spins before it sleeps. Training the demo model's decoder on two cores, in tokens
per second, alone and beside a second such process: spinning for ever 8,900 and a few hundred; 10,000 turns 8,900 and
1,500; 3,000 turns 7,800; 1,000 turns 5,500 and 4,200; never 4,300 and 5,200."""


def share_cores() -> None:
    """Let idle threads of OpenMP spin for a moment only, unless the user has decided otherwise.

    Threads that spin for ever make a machine whose cores others use too dozens of times slower; threads that never spin
    make a quiet one half as fast. No effect once torch is there.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def idle_cores(seconds: float = 0.25) -> float | None:
    """How many cores had nothing to do for the last `seconds`, by Linux's own count; None where it cannot be known."""
    before = _idle_ticks()
    if before is None:
        return None
    time.sleep(seconds)
    after = _idle_ticks()
    assert after is not None
    idle, total = after[0] - before[0], after[1] - before[1]
    return (os.cpu_count() or 1) * idle / total if total > 0 else None


def _idle_ticks() -> tuple[int, int] | None:
    """Ticks of all cores since the start of the machine: idle ones, all."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]]
    except (OSError, ValueError):
        return None
    return (ticks[3] + ticks[4], sum(ticks)) if len(ticks) == 8 else None
