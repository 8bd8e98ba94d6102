"""Ctrl-C in the real chat; how soon it works, `benchmarks/interrupt.py` says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "interrupt.py"


@pytest.mark.slow
def test_twenty_answers_are_interrupted_kept_and_marked() -> None:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LUNA_", "COVERAGE_"))}
    command = [sys.executable, str(BENCHMARK), "--runs", "20"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**kept, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    found = json.loads(done.stdout)
    assert found["exit_status"] == 0
    assert found["marked"] == found["runs"] == 20
    assert found["broken"] == 0
