"""Tiny distributions, really installed: modules and `.dist-info` written into a site folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HEAD = "from luna_kernel import hookimpl\nLUNA_API = 1\n"


class Site:
    """A site-packages folder that is first on the path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(
        self,
        name: str,
        source: str,
        *,
        distribution: str | None = None,
        version: str = "1.0",
        head: str = HEAD,
        module: str | None = None,
        files: dict[str, str] | None = None,
    ) -> str:
        """A plugin `name` whose light module is `source`; returns the name of its package."""
        module = module or f"luna_plugin_{name}"
        distribution = distribution or f"luna-plugin-{name}"
        package = self.folder / module
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(head + textwrap.dedent(source), encoding="utf-8")
        for file, text in (files or {}).items():
            (package / file).write_text(textwrap.dedent(text), encoding="utf-8")
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[luna.plugins]\n{name} = {module}\n")
        return module

    def run(
        self, *args: str, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`luna ARGS` as a whole process, in English, with this site installed."""
        return subprocess.run(
            [sys.executable, "-m", "luna_kernel", *args],
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=60,
            cwd=cwd or self.folder,
            env=self.environment(env),
        )

    def environment(self, more: dict[str, str] | None = None) -> dict[str, str]:
        """The environment of a process that sees this site and nothing of the user's settings."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("LUNA_")}
        home = str(self.folder / "home")
        return {**clean, "PYTHONPATH": str(self.folder), "LUNA_LANG": "en", "LUNA_HOME": home, **(more or {})}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty site for subprocesses."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder)


@pytest.fixture
def here(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The same site, on the path of this very process."""
    # Another test of this process may have imported the real plugins of the same names.
    for name in [name for name in sys.modules if name.startswith("luna_plugin_")]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(site.folder))
    monkeypatch.setenv("LUNA_LANG", "en")
    monkeypatch.setenv("LUNA_HOME", str(site.folder / "home"))
    monkeypatch.delenv("LUNA_PLUGINS", raising=False)
    monkeypatch.chdir(site.folder)
    yield site
    for name in set(sys.modules) - before:
        if name.startswith(("luna_plugin_", "luna_local_")) or getattr(sys.modules[name], "__file__", None) in {
            str(path) for path in site.folder.rglob("*.py")
        }:
            del sys.modules[name]


@pytest.fixture
def run_python(site: Site) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a piece of Python in a process that sees the site."""

    def run(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=60,
            cwd=site.folder,
            env=site.environment(),
        )

    return run
