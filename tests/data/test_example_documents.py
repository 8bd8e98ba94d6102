"""The example documents answer the questions that come with them."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "exemplos"
QUESTIONS_FILE = Path(__file__).parent / "perguntas_dos_exemplos.jsonl"
QUESTIONS = [json.loads(line) for line in QUESTIONS_FILE.read_text(encoding="utf-8").splitlines()]
DOCUMENTS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in {".md", ".txt"})


def test_there_are_forty_questions_and_eight_have_no_answer():
    assert len(QUESTIONS) == 40
    assert sum(row["file"] is None for row in QUESTIONS) == 8
    assert len({row["question"] for row in QUESTIONS}) == 40


@pytest.mark.parametrize("row", QUESTIONS, ids=lambda row: row["question"])
def test_each_quote_occurs_once_in_its_file(row: dict[str, str | None]):
    assert set(row) == {"question", "file", "quote"}
    if row["file"] is None:
        assert row["quote"] is None
        return
    assert (EXAMPLES / row["file"]).read_text(encoding="utf-8").count(str(row["quote"])) == 1


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_are_short_and_clean(path: Path):
    text = path.read_text(encoding="utf-8")
    assert 300 <= len(text.split()) <= 700
    assert unicodedata.is_normalized("NFC", text)
    assert "<|" not in text


def test_every_document_is_asked_about():
    assert {row["file"] for row in QUESTIONS} - {None} == {path.name for path in DOCUMENTS}
    assert len(DOCUMENTS) == 5
