"""Bad plugins installed by pip into a virtual environment: the same as from hand-written metadata."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PYPROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "luna-plugin-{name}"
version = "0.3.1"

[project.entry-points."luna.plugins"]
{name} = "luna_plugin_{name}"

[tool.setuptools]
packages = ["luna_plugin_{name}"]
"""
SOURCES = {
    "exits": "import sys\nsys.exit(0)\n",
    "alone": "from luna_kernel import hookimpl\nLUNA_API = 1\nimport library_that_nobody_has_\n",
    "works": "LUNA_API = 1\n",
}


@pytest.mark.slow
def test_pip_install(fresh_python: Callable[[Path], Path], tmp_path: Path) -> None:
    python = str(fresh_python(tmp_path / "venv"))
    folders = []
    for name, source in SOURCES.items():
        folder = tmp_path / name
        (folder / f"luna_plugin_{name}").mkdir(parents=True)
        (folder / "pyproject.toml").write_text(PYPROJECT.format(name=name))
        (folder / f"luna_plugin_{name}" / "__init__.py").write_text(source)
        folders.append(str(folder))
    pip = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", *folders]
    subprocess.run(pip, check=True, capture_output=True)
    env = {**os.environ, "LUNA_LANG": "en", "LUNA_HOME": str(tmp_path / "home")}

    def luna(*args: str) -> Any:
        return subprocess.run(
            [python, "-m", "luna_kernel", *args], capture_output=True, text=True, check=False, env=env, cwd=tmp_path
        )

    listed = luna("plugins", "--json")
    rows = {row["name"]: row for row in json.loads(listed.stdout)["plugins"]}
    assert {name: rows[name]["state"] for name in SOURCES} == {"exits": "broken", "alone": "broken", "works": "on"}
    assert rows["exits"]["version"] == "0.3.1"
    assert "library_that_nobody_has_" in rows["alone"]["reason"]
    assert luna("--help").returncode == 0
    assert luna("plugins", "--plugins", "exits").returncode == 2
    assert luna("plugins", "--plugins", "works").returncode == 0
    assert "luna-plugin-works==0.3.1\n" in luna("plugins", "--requirements").stdout
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "luna-plugin-exits"], check=True, capture_output=True)
    assert "exits" not in luna("plugins").stdout
