"""Two more collections to measure retrieval on, made from texts that have nothing to do with the first.

    python benchmarks/knowledge/make_collections.py --faq FOLDER --simplified FOLDER --output FOLDER
    python benchmarks/knowledge/retrieval.py --data OUTPUT/faq

`--faq` is a folder of Python's documentation in Portuguese as text, a paragraph a line: each question of its FAQ pages
is a question, the paragraph after it the right one, and all paragraphs of all pages are searched. `--simplified` is a
folder of PorSimplesSent's tables: a strongly simplified sentence asks for the paragraph that it was made from, where
it was changed at all. Each becomes a folder with `corpus.jsonl`, `queries.jsonl` and `qrels.tsv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

_MARKUP = re.compile(r":[\w:+-]+:`!?~?([^`]*)`|``")
_LEAST = 60
"""Characters of a paragraph; shorter ones are headings and names."""
_QUESTIONS = 1500
_STEPS = 4
"""From a simplified sentence back to its original at most."""


@dataclass
class Collected:
    """Texts by name, and questions with the name of the text that is right."""

    texts: dict[str, str] = field(default_factory=dict)
    questions: list[tuple[str, str]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """In BEIR's layout."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = {
            "corpus": [{"_id": name, "title": "", "text": text} for name, text in self.texts.items()],
            "queries": [{"_id": f"q{place}", "text": text} for place, (text, _) in enumerate(self.questions)],
        }
        for name, rows in lines.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        right = "".join(f"q{place}\t{name}\t1\n" for place, (_, name) in enumerate(self.questions))
        (folder / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{right}", encoding="utf-8")
        print(f"{folder}: {len(self.texts)} texts, {len(self.questions)} questions")


def faq(folder: Path) -> Collected:
    """The questions of the FAQ pages and what follows them."""
    found = Collected()
    for file in sorted(folder.rglob("*.txt")):
        question = None
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
            text = line.strip()
            if file.name.startswith("faq") and text.endswith("?") and len(text) < 200:
                question = _MARKUP.sub(lambda markup: markup[1] or "", text)
            elif len(text) >= _LEAST:
                name = f"{file.stem}:{number}"
                found.texts[name] = text
                if question is not None:
                    found.questions.append((question, name))
                question = None
    return found


def simplified(folder: Path) -> Collected:
    """Strongly simplified sentences, and the paragraphs of the originals."""
    sentences = {(row["text_id"], row["sentence_id"]): row for row in _table(folder / "porsimples_sentences.tsv")}
    origin = {
        (row["text_id_to"], row["sentence_id_to"]): (row["text_id_from"], row["sentence_id_from"])
        for row in _table(folder / "porsimples_aligns.tsv")
    }
    found = Collected()
    for row in sentences.values():
        if row["level"] == "ORI":
            name = _paragraph(row)
            found.texts[name] = f"{found.texts.get(name, '')} {row['sentence_text'].strip()}".strip()
    for key, row in sentences.items():
        first = key
        for _ in range(_STEPS):
            first = origin.get(first, first)
        source, text = sentences.get(first), row["sentence_text"].strip()
        if row["level"] != "STR" or source is None or source["level"] != "ORI" or len(text) < 25:
            continue
        if text != source["sentence_text"].strip():
            found.questions.append((text, _paragraph(source)))
    found.questions = random.Random(0).sample(found.questions, min(_QUESTIONS, len(found.questions)))
    return found


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _paragraph(row: dict[str, str]) -> str:
    return f"{row['text_id']}:{row['paragraph']}"


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faq", type=Path, metavar="FOLDER")
    parser.add_argument("--simplified", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    if options.faq:
        faq(options.faq).write(options.output / "faq")
    if options.simplified:
        simplified(options.simplified).write(options.output / "simplified")


if __name__ == "__main__":
    main()
