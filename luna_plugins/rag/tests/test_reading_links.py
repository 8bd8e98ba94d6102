"""Links in a folder of documents: to files, out of the folder, in circles, to nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from luna_plugin_rag.reading import list_files

from luna_kernel.plugins.registry import Registry

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def linked(write: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a file, links that lead in a circle, out of it, and to nowhere."""
    docs = write(**{"a.md": "o sino", "sub/b.md": "a capela", ".oculto/c.md": "o rio"})
    outside = tmp_path / "fora"
    outside.mkdir()
    (outside / "d.md").write_text("o trem")
    links = {
        "um": docs,
        "dois": docs,
        "sub/tres": docs,
        "pasta": outside,
        "d.md": outside / "d.md",
        "nada.md": docs / "x",
    }
    for name, target in links.items():
        (docs / name).symlink_to(target)
    return docs


@pytest.mark.parametrize("pattern", ["", "**/*.md", "**", "*", "**/*"])
def test_links_to_files_are_followed_and_no_links_to_folders(linked: Path, registry: Registry, pattern: str) -> None:
    found = list_files([linked / pattern], registry)
    assert sorted(found.files) == ["a.md", "d.md", "sub/b.md"]


def test_a_link_that_is_named_itself_is_followed(linked: Path, registry: Registry) -> None:
    assert sorted(list_files([linked / "pasta"], registry).files) == ["d.md"]
    assert sorted(list_files([linked / "pasta" / "*.md"], registry).files) == ["d.md"]
    assert sorted(list_files([linked / "d.md"], registry).files) == ["d.md"]
