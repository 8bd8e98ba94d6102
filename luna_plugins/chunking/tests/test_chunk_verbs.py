"""The verbs as people run them, the report on texts whose answer is known, and the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from luna_plugin_chunking.quality import quality

from luna_kernel.contracts.data import Chunk, Document

CATS = "O gato dorme no sofá. O gato caça o rato. O rato foge do gato. O gato mia de noite. "
STARS = "A estrela brilha no céu. O céu tem outra estrela. A estrela morre em silêncio. O céu escurece sem estrela. "


def run(*arguments: str, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LUNA_")}
    environment = {**kept, "LUNA_HOME": str(cwd / "home"), "LUNA_LANG": "en"}
    command = [sys.executable, "-m", "luna_kernel", *arguments]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text(CATS * 3 + STARS * 3, encoding="utf-8")
    (tmp_path / "b.md").write_text("# Um\n\nTexto do primeiro.\n\n## Dois\n\nTexto do segundo.\n", encoding="utf-8")
    return tmp_path


def test_chunks_as_lines_and_into_a_file(folder: Path) -> None:
    lines = [json.loads(line) for line in run("chunk", "a.txt", "--max-size", "100", cwd=folder).stdout.splitlines()]
    text = (folder / "a.txt").read_text(encoding="utf-8")
    assert "".join(line["text"] for line in lines) == text
    assert all(text[line["start"] : line["end"]] == line["text"] and len(line["text"]) <= 100 for line in lines)
    run("chunk", "a.txt", "--max-size", "100", "--output", "out.jsonl", cwd=folder)
    assert [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").splitlines()] == lines


def test_mojibake_is_mended_when_asked(folder: Path) -> None:
    right = "Não há maçãs à venda. É só amanhã."
    (folder / "m.txt").write_text(
        right.encode().decode("cp1252", "replace").replace("\ufffd", "\x81"), encoding="utf-8"
    )
    plain = json.loads(run("chunk", "m.txt", cwd=folder).stdout)["text"]
    assert plain != right
    assert json.loads(run("chunk", "m.txt", "--mend-mojibake", cwd=folder).stdout)["text"] == right


def test_headings_of_markdown(folder: Path) -> None:
    done = run("chunk", "b.md", "--strategy", "markdown", "--json", cwd=folder)
    assert [chunk["heading"] for chunk in json.loads(done.stdout)["chunks"]] == ["Um", "Um › Dois"]


def test_suggestions_help_when_they_are_followed(folder: Path) -> None:
    bad = ["a.txt", "--strategy", "fixed", "--max-size", "130", "--json"]
    found = json.loads(run("analyze", *bad, "--suggest-optimizations", cwd=folder).stdout)
    assert found["suggestions"]
    for item in found["suggestions"]:
        changes = dict(item["changes"])
        options = ["--strategy", changes.pop("strategy")]
        options += ["--min-size", str(changes["min_size"])] if "min_size" in changes else []
        stats = json.loads(run("analyze", "a.txt", "--max-size", "130", "--json", *options, cwd=folder).stdout)["stats"]
        after = stats["inside"] - stats["across"] if item["measure"] == "separation" else stats[item["measure"]]
        assert after == pytest.approx(item["after"], abs=2e-4)


def test_benchmark_times_what_is_asked(folder: Path) -> None:
    options = ["--strategies", "fixed,semantic", "--iterations", "1", "--show-memory", "--json"]
    rows = json.loads(run("benchmark", "a.txt", *options, cwd=folder).stdout)["strategies"]
    assert [row["strategy"] for row in rows] == ["fixed", "semantic"]
    assert all(set(row) == {"strategy", "chunks", "seconds", "mb_per_s", "peak_mb"} and row["chunks"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["benchmark", "a.txt", "--strategies", "fixo"], "fixo"),
        (["chunk", "a.txt", "--overlap", "5"], "overlapping"),
        (["chunk", "a.txt", "--tokenizer", "nada"], "nada"),
        (["chunk", "nada.txt"], "nada.txt"),
        (["chunk", "a.txt", "--max-size", "50", "--min-size", "60"], "--min-size 60 is larger"),
        (["chunk", "a.txt", "--strategy", "overlapping", "--max-size", "50", "--overlap", "40"], "more than half"),
    ],
)
def test_wrong_use_is_said(folder: Path, arguments: list[str], words: str) -> None:
    assert words in run(*arguments, cwd=folder, status=2).stderr


def test_the_cache_gives_the_same_and_is_not_believed_when_damaged(folder: Path) -> None:
    first = run("chunk", "a.txt", cwd=folder).stdout
    files = list((folder / "home").rglob("chunks/*/*.json"))
    assert len(files) == 1
    assert run("chunk", "a.txt", cwd=folder).stdout == first
    files[0].write_text("[[0, ", encoding="utf-8")
    assert run("chunk", "a.txt", cwd=folder).stdout == first


def test_the_report_knows_a_cut_between_two_matters(folder: Path) -> None:
    text = CATS + STARS
    document = Document(text, "x")

    def cut(*places: int) -> list[Chunk]:
        ends = [*places, len(text)]
        return [Chunk(text[a:b], a, b) for a, b in zip([0, *places], ends, strict=True)]

    right, inside_word = quality([(document, cut(len(CATS)))]), quality([(document, cut(len(CATS) + 4))])
    assert right.at_sentences == 1.0
    assert inside_word.at_sentences == 0.0
    assert right.inside > right.across
    assert (right.chunks, right.largest) == (2, max(len(CATS), len(STARS)))
