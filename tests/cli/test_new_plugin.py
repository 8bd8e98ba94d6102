"""`luna plugins new`: the plugin that it makes is installed by pip and passes its tests."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from luna_kernel.base.errors import UsageError
from luna_kernel.cli.new_plugin import TEMPLATE, make_plugin

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_the_new_plugin_installs_and_passes_its_tests(
    luna: Run, fresh_python: Callable[[Path], Path], tmp_path: Path
) -> None:
    made = luna("plugins", "new", "meu_teste")
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "luna-plugin-meu-teste"
    assert "luna-plugin-meu-teste" in made.stdout
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == sorted(
        str(p.relative_to(TEMPLATE)).replace("xyz", "meu_teste")
        for p in TEMPLATE.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    )
    assert not [p for p in folder.rglob("*.*") if p.is_file() and "xyz" in p.read_text(encoding="utf-8").lower()]
    python = fresh_python(tmp_path / "venv")
    pip = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", str(folder)]
    installed = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LUNA_HOME": str(tmp_path / "home")}
    listed = subprocess.run(
        [str(python), "-m", "luna_kernel", "plugins", "--json", "--check", "--plugins", "meu_teste"],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    row = next(r for r in json.loads(listed.stdout)["plugins"] if r["name"] == "meu_teste")
    assert (row["state"], row["complaints"]) == ("on", [])
    assert row["distribution"].replace("_", "-") == "luna-plugin-meu-teste"
    tested = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        capture_output=True, text=True, check=False, env=env, cwd=folder,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert " passed" in tested.stdout


def test_json(luna: Run, tmp_path: Path) -> None:
    done = luna("--json", "plugins", "new", "x1", "--folder", "here/it")
    assert json.loads(done.stdout) == {"ok": True, "folder": "here/it"}
    assert (tmp_path / "here" / "it" / "pyproject.toml").is_file()


@pytest.mark.parametrize("name", ["", "Foo", "a-b", "../x", "1a", "class", "all", "none", "kernel", "a" * 41, "ç"])
def test_names_that_cannot_be(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        make_plugin(name, tmp_path / "x", installed=set())
    assert not (tmp_path / "x").exists()


def test_names_that_are_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        make_plugin("moc", tmp_path / "x", installed=set())
    with pytest.raises(UsageError):
        make_plugin("mine", tmp_path / "x", installed={"mine"})
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError):
        make_plugin("mine", tmp_path / "x", installed=set())
