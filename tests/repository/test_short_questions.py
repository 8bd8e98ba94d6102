"""The questions of `benchmarks/knowledge/short_questions.py`: enough of them, and right passages that are there."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks" / "knowledge" / "short"


def test_each_question_has_a_passage_or_none() -> None:
    answered = refused = 0
    for table in sorted(FOLDER.glob("*/*.tsv")):
        (document,) = (file for file in table.parent.glob(f"{table.stem}.*") if file != table)
        text = document.read_text(encoding="utf-8")
        seen: set[str] = set()
        for line in table.read_text(encoding="utf-8").splitlines():
            query, phrase = line.split("\t")
            assert query not in seen, query
            seen.add(query)
            assert phrase == "-" or text.count(phrase) == 1, (table.name, query)
            answered += phrase != "-"
            refused += phrase == "-"
    assert answered >= 120
    assert refused >= 80
