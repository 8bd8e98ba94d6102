"""How threads wait for each other. Call before torch is imported."""

from __future__ import annotations

import os
import sys


def share_cores() -> None:
    """Let idle threads of OpenMP sleep instead of spin, unless the user has decided otherwise.

    Spinning gains little on a quiet machine, and on one whose cores others use too every operation waits for threads
    that do not run: training was measured fifty times slower with two busy neighbours. No effect once torch is there.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
