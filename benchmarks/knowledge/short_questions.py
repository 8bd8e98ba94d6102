"""Short questions, as people type them, over the few documents that people have: what is found, shown and refused.

    python benchmarks/knowledge/short_questions.py [--half tune held_out] [--failed] [--json] [--output FILE]

Eight documents (`short/`: a manual, a contract, a recipe, a school's notice; a provider's FAQ, a house's regulation,
minutes, a health leaflet) with questions each, some of which it does not answer. A question is one line of a table:
its words, and a phrase that only the right passage holds, or `-`. The documents of `tune` may be looked at when
something is made better; those of `held_out` say whether it was. Each document is asked as a knowledge base of its own
and as one of all eight, with accents and without. In percent, and with the default retrievers and threshold:

    first   the right passage is the first
    right   it is among the four best
    shown   it is among those that are shown
    false   something is shown where nothing is right
    order   pairs of a question with an answer and one without of which the first is the more probable, whatever the
            threshold; 50 is chance
    Brier   mean square of the distance between the probability that is said and whether it is among the four best
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import add_options, tell
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.search import SHOWN

from luna_kernel.data.portuguese import fold
from luna_kernel.plugins import load_plugins

FOLDER = Path(__file__).with_name("short")
HALVES = ("tune", "held_out")
NOTHING = "-"
COLUMNS = ("first", "right", "shown", "false", "order", "Brier")


@dataclass(frozen=True)
class Asked:
    """A question and what came of it."""

    half: str
    document: str
    query: str
    phrase: str
    place: int
    """Of the right passage among the best, from 0; -1 where it is not there."""
    confidence: float
    """The probability that was said."""
    shown: bool
    """Whether something was shown: the right passage, where there is one."""

    @property
    def answerable(self) -> bool:
        """Whether the document answers it."""
        return self.phrase != NOTHING


def questions(file: Path) -> list[tuple[str, str]]:
    """(question, phrase) of a table."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(query, phrase) for query, phrase in (line.split("\t") for line in lines)]


def documents(half: str) -> list[Path]:
    """The documents of a half."""
    return sorted(file for file in (FOLDER / half).iterdir() if file.suffix != ".tsv")


def ask(knowledge: KnowledgeBase, document: Path, *, accents: bool) -> list[Asked]:
    """All questions of a document."""
    threshold, found = KnowledgeConfig().threshold, []
    for query, phrase in questions(document.with_suffix(".tsv")):
        asked = query if accents else fold(query)
        every = knowledge.search(asked, SHOWN, threshold=0.0)
        told = knowledge.search(asked, SHOWN, threshold=threshold).passages
        held = [" ".join(passage.text.split()) for passage in every.passages]
        place = next((place for place, text in enumerate(held) if phrase != NOTHING and phrase in text), -1)
        right = any(phrase in " ".join(passage.text.split()) for passage in told) if phrase != NOTHING else bool(told)
        found.append(Asked(document.parent.name, document.stem, query, phrase, place, every.confidence, right))
    return found


def row(found: Sequence[Asked]) -> dict[str, float]:
    """What the columns say of some questions."""
    with_answer = [one for one in found if one.answerable]
    without = [one for one in found if not one.answerable]
    parts = (
        [one.place == 0 for one in with_answer],
        [one.place >= 0 for one in with_answer],
        [one.shown for one in with_answer],
        [one.shown for one in without],
    )
    shares = [100 * sum(part) / max(len(part), 1) for part in parts]
    pairs = [(one.confidence, other.confidence) for one in with_answer for other in without]
    shares.append(100 * sum((one > other) + (one == other) / 2 for one, other in pairs) / max(len(pairs), 1))
    brier = sum((one.confidence - (one.place >= 0)) ** 2 for one in found) / max(len(found), 1)
    return dict(zip(COLUMNS, [*shares, brier], strict=True))


def measure(halves: Sequence[str]) -> dict[tuple[str, str], list[Asked]]:
    """Answers by (`alone` or `all`, way)."""
    registry = load_plugins("bm25,tfidf,rag").registry
    every = [document for half in HALVES for document in documents(half)]
    found: dict[tuple[str, str], list[Asked]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, paths in enumerate([every, *([one] for one in every)]):
            kind = "alone" if place else "all"
            with KnowledgeBase(Path(folder, str(place)), registry) as knowledge:
                knowledge.sync(paths)
                for document in paths:
                    if document.parent.name in halves:
                        for way in ("plain", "no-accents"):
                            answers = ask(knowledge, document, accents=way == "plain")
                            found.setdefault((kind, way), []).extend(answers)
    return found


def print_failed(found: Sequence[Asked]) -> None:
    """Print the questions whose right passage is not shown, and those that are answered and should not be."""
    for one in found:
        if one.shown != one.answerable:
            what = "not shown" if one.answerable else "false"
            print(f"  {what:<10}{one.confidence:.2f}  place {one.place:>2}  {one.document}: {one.query}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--half", nargs="+", choices=HALVES, default=HALVES)
    parser.add_argument("--failed", action="store_true", help="print the questions that went wrong (accents as typed)")
    add_options(parser)
    options = parser.parse_args()
    tables: dict[str, Any] = {}
    for (kind, way), found in measure(options.half).items():
        rows: dict[str, dict[str, float]] = {}
        for half in options.half:
            of_half = [one for one in found if one.half == half]
            for name in dict.fromkeys(one.document for one in of_half):
                rows[name] = row([one for one in of_half if one.document == name])
            rows[half] = row(of_half)
        tables[f"{kind}, {way}"] = rows
        if options.json:
            continue
        print(f"\n{kind}, {way}: {sum(one.answerable for one in found)} questions with an answer and "
              f"{sum(not one.answerable for one in found)} without")  # fmt: skip
        print(f"{'':<14}" + "".join(f"{name:>8}" for name in COLUMNS))
        for name, cells in rows.items():
            *shares, brier = cells.values()
            print(f"{name:<14}" + "".join(f"{share:>8.1f}" for share in shares) + f"{brier:>8.3f}")
        if options.failed and way == "plain":
            print_failed(found)
    tell(options, {"tables": tables})


if __name__ == "__main__":
    main()
