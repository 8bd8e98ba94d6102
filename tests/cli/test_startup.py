"""How fast `luna --help` is. The limit is 0.15 s as a median; the figure for the documentation is the benchmark's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "startup.py"


def test_startup() -> None:
    """On a busy machine wall time says little, so the limit is also met if it is met relative to click alone."""
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, str(BENCHMARK), "--runs", "7", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=unmeasured)
    medians = json.loads(done.stdout)["median_s"]
    for name in ("luna --help", "luna plugins"):
        assert medians[name] <= 0.15 or medians[name] <= 3.5 * medians["click --help"], medians
