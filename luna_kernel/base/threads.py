"""How threads wait for each other. Call before torch is imported."""

from __future__ import annotations

import os
import sys

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
