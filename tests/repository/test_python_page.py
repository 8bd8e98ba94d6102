"""The programs of docs/python.md, run against a small model and the example documents."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the model `meu-modelo`, and a folder `conhecimento` beside it."""
    from luna_kernel.cli.main import cli

    for name in ("rag", "bm25", "personas", "feedback"):
        pytest.importorskip(f"luna_plugin_{name}")
    folder = tmp_path_factory.mktemp("python-page")
    shutil.copytree(ROOT / "docs" / "exemplos", folder / "conhecimento")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNA_HOME", str(folder / "home"))
        cli.main(["create", "--name", "meu-modelo", "--preset", "mini", "--vocab-size", "600"], standalone_mode=False)
    return folder


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_runs(block: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LUNA_HOME", str(home / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    monkeypatch.chdir(home)
    exec(compile(block, "docs/python.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert said.strip()
    if "conhecimento" in block:
        assert "quatro livros" in said
        assert "regulamento-da-biblioteca.txt" in said
