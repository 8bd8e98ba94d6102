from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNA_LANG", "en")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The built fault shim, or `python` where it cannot be built."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return "python"
    target = tmp_path_factory.mktemp("shim") / "shim.so"
    built = subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", target, HERE / "shim.c", "-ldl"], check=False)
    return str(target) if built.returncode == 0 else "python"


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if the system has one: fsync costs nothing there, and no trial cuts the power."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def drive(shim: str, memory_folder: Path) -> Callable[..., Any]:
    """Run a script of this folder under the shim and give back what it prints as JSON."""

    def run(script: str, *arguments: object) -> Any:
        # Without coverage: it would slow thousands of forks down to measure what other tests measure.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        if shim != "python":
            environment["LD_PRELOAD"] = shim
        command = [sys.executable, HERE / script, shim, memory_folder, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
