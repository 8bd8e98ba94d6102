"""How many cores are free."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from luna_kernel.base.threads import idle_cores

pytestmark = pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="Linux only")


def test_a_busy_core_is_not_idle() -> None:
    cores = os.cpu_count() or 1
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        idle = idle_cores(0.5)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert idle is not None
    assert 0 <= idle < 0.5 * cores
    free = idle_cores(0.1)
    assert free is not None
    assert 0 <= free <= cores
