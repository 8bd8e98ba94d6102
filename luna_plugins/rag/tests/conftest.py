"""Plugins, a home of its own, the example documents, and small folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.loading import Plugins
from luna_kernel.plugins.registry import Registry

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    return tmp_path / "home"


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return load_plugins("rag")


@pytest.fixture(scope="session")
def registry(plugins: Plugins) -> Registry:
    return plugins.registry


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "docs" / "exemplos"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(name=text)` or `write(**{"a.txt": text})` into a folder, which it returns."""
    folder = tmp_path / "docs"

    def put(**files: str | bytes) -> Path:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return folder

    return put
