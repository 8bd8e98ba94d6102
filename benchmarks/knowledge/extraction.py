"""How often the quoted sentences hold the right answer, on a folder as for `retrieval.py` whose queries have answers.

    python benchmarks/knowledge/extraction.py --data DIR

Prints, in percent of the questions whose answer stands literally in their passage: the share whose first quoted
sentence, and whose quoted sentences together, hold it; given the right passage, and from the question alone
(retrieval, fusion, reranking and extraction). Beside it, the passage's first sentence, and the sentence that shares
most words with the question.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from retrieval import Collection, luna_retrievers

from luna_kernel.chat.extract import best_sentences
from luna_kernel.contracts.chat import Passage
from luna_kernel.data.portuguese import words
from luna_kernel.data.sentences import sentences


def holds(text: str, answers: list[list[str]]) -> bool:
    """Whether one of the answers, as folded words, stands in the text."""
    padded = f" {' '.join(words(text))} "
    return any(f" {' '.join(answer)} " in padded for answer in answers)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=2, help="sentences per answer")
    parser.add_argument("--passages", type=int, default=4, help="passages that the end-to-end answer may quote")
    parser.add_argument("--errors", type=int, default=0, help="print so many questions that went wrong")
    options = parser.parse_args()
    collection = Collection(options.data, titles=True)
    gold = {}
    for line in (options.data / "queries.jsonl").open(encoding="utf-8"):
        item = json.loads(line)
        gold[item["_id"]] = [words(answer) for answer in item.get("answers", []) if words(answer)]
    rank = luna_retrievers(collection)["hybrid (bm25+tfidf, reranked)"]()

    def passage(i: int, number: int) -> Passage:
        text = collection.texts[i]
        return Passage(number, str(i), collection.titles[i], "", text, 0, len(text), 1 / number)

    def overlap(query: str, text: str) -> Any:
        asked = set(words(query))
        return max((text[a:b] for a, b in sentences(text)), key=lambda s: len(asked & set(words(s))))

    counts = dict.fromkeys(("asked", "first sentence", "most words", "first", "all", "end first", "end all"), 0)
    for name, query in collection.queries:
        right = min(collection.right[name])
        text = collection.texts[right]
        if not holds(text, gold[name]):
            continue
        counts["asked"] += 1
        counts["first sentence"] += holds(text[slice(*next(sentences(text)))], gold[name])
        counts["most words"] += holds(overlap(query, text), gold[name])
        quotes = best_sentences(query, [passage(right, 1)], limit=options.limit)
        good = bool(quotes) and holds(quotes[0].text, gold[name])
        counts["first"] += good
        counts["all"] += any(holds(quote.text, gold[name]) for quote in quotes)
        if not good and options.errors > 0:
            options.errors -= 1
            print(f"? {query}\n  wanted {gold[name]}\n  got    {quotes[0].text if quotes else None}")
            print("  right ", next((text[a:b] for a, b in sentences(text) if holds(text[a:b], gold[name])), None))
        found = [passage(i, number) for number, i in enumerate(rank(query)[: options.passages], 1)]
        quotes = best_sentences(query, found, limit=options.limit)
        counts["end first"] += bool(quotes) and holds(quotes[0].text, gold[name])
        counts["end all"] += any(holds(quote.text, gold[name]) for quote in quotes)
    asked = counts.pop("asked")
    print(f"{asked} questions whose answer stands in their passage")
    for label, count in counts.items():
        print(f"{label:<18}{100 * count / asked:>7.1f} %")


if __name__ == "__main__":
    main()
