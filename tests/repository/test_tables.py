"""The tables of figures on the pages are what the benchmarks wrote."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

spec = importlib.util.spec_from_file_location("tables", ROOT / "contrib" / "tables.py")
assert spec is not None
assert spec.loader is not None
tables = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tables)

FIGURES: dict[str, Any] = {
    "tables": [
        {"title": "fp32, d 8", "rows": {"a": {"ratio": 1.0, "lowest": 1.0, "highest": 1.0, "MiB": 2.5}}},
        {"title": "bf16, d 8", "rows": {"a": {"ratio": 1.234, "lowest": 1.1, "highest": 1.5}}},
    ],
    "runs": [{"case": "a", "share": 0.2}, {"case": "a", "share": 0.4}, {"case": "a", "share": 0.3}],
}
TABLE: dict[str, Any] = {
    "file": "some.json",
    "head": ["layer"],
    "rows": [{"label": ["`a`"], "row": "a"}],
    "columns": [
        {"head": "fp32", "at": "tables/~fp32&d 8/rows/{row}", "as": "spread"},
        {"head": "bf16", "at": "tables/1/rows/{row}", "as": "spread"},
        {"head": "kept", "at": "tables/0/rows/{row}/MiB", "as": "{:.1f} MiB"},
        {"head": "share", "at": "runs/case={row}/share", "as": "{:.0%}"},
        {"head": "none", "at": "tables/1/rows/{row}/MiB", "as": "{:.1f}", "optional": True},
    ],
}
EXPECTED = (
    "| layer | fp32 | bf16 | kept | share | none |\n|---|---|---|---|---|---|\n"
    "| `a` | 1 | 1.23 (1.10 to 1.50) | 2.5 MiB | 30 % (20 % to 40 %) |  |\n"
)


def test_the_pages_say_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, capsys.readouterr()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with one table."""
    (tmp_path / "README.md").write_text("a\n<!-- table: some -->\nold\n<!-- end of table -->\nb\n", encoding="utf-8")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "figures", lambda name: FIGURES)
    monkeypatch.setattr(tables, "descriptions", lambda: {"some": TABLE})
    return tmp_path / "README.md"


def test_a_page_that_differs_is_said_and_then_written(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 1
    assert "differs: README.md" in capsys.readouterr().out
    assert "old" in repository.read_text(encoding="utf-8")
    assert tables.main([]) == 0
    assert repository.read_text(encoding="utf-8") == f"a\n<!-- table: some -->\n{EXPECTED}<!-- end of table -->\nb\n"
    assert tables.main(["--check"]) == 0


def test_what_does_not_fit(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "descriptions", dict)
    assert tables.main(["--check"]) == 2
    assert "no table 'some'" in capsys.readouterr().err
    strict = {**TABLE, "columns": [{"head": "x", "at": "tables/0/rows/b", "as": "spread"}]}
    monkeypatch.setattr(tables, "descriptions", lambda: {"some": strict})
    assert tables.main(["--check"]) == 2
    assert "nothing at 'tables/0/rows/b'" in capsys.readouterr().err
    monkeypatch.setattr(tables, "descriptions", lambda: {"some": TABLE, "other": TABLE})
    assert tables.main(["--check"]) == 1
    assert "'other' is on no page" in capsys.readouterr().err
