"""What tests of several rooms need."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Spawned processes import functions of test modules as `tests.…`. Last, so that what is installed is tested.
sys.path.append(str(Path(__file__).parents[1]))


@pytest.fixture
def fresh_python() -> Callable[[Path], Path]:
    """Make a virtual environment that also sees the packages of this one; returns its python."""

    def make(folder: Path) -> Path:
        venv.create(folder, with_pip=False, symlinks=True)
        site = next((folder / "lib").glob("python*")) / "site-packages"
        outer = [path for path in sys.path if path.endswith(("site-packages", "dist-packages")) and Path(path).is_dir()]
        lines = [f"import site; site.addsitedir({path!r})" for path in outer]
        (site / "outer.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder / "bin" / "python"

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)
