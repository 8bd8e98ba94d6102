"""Whether a threshold means the same whatever retrievers a knowledge base has.

    python benchmarks/knowledge/thresholds.py --data DIR [--retrievers bm25+tfidf bm25 ...] [--questions 800]

Each question is asked of three collections: all passages, those of its article, and all but those of its article, where
nothing is right. For each set of retrievers, in percent: how often one of the four best passages is the right one, how
often that is shown at the threshold, how often anything is shown where nothing is right; and the Brier score of the
probability that is said (0 is best; the mean over the three collections). A second row gives the same where each
collection is calibrated with questions of its own words, as `luna index` does, an article counting as a file; one
article alone is not. The question that is asked, and where nothing is right its article, have no part in that.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from luna_plugin_rag.calibration import calibrate, confidence, shifted
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.fusion import fuse
from luna_plugin_rag.relevance import AlignmentReranker
from luna_plugin_rag.search import SHOWN
from retrieval import Collection

from luna_kernel.contracts.retrievers import Candidate
from luna_kernel.plugins import load_plugins

SETS = ("bm25+tfidf", "bm25+tfidf+faiss", "bm25+faiss", "bm25", "tfidf", "faiss")


class Asked:
    """A collection of some of the passages, asked through any of its retrievers.

    Args:
        collection: all passages.
        kept: which of them.
        names: the retrievers.
        registry: where they are.
    """

    def __init__(self, collection: Collection, kept: list[int], names: list[str], registry: Any) -> None:
        self.collection = collection
        self.retrievers = {}
        for name in names:
            component = registry.get("retriever", name)
            self.retrievers[name] = component.load()(component.make_config(), registry)
            self.retrievers[name].add(kept, [collection.with_titles[i] for i in kept])

        self.kept = kept
        self._shifts: dict[str, float] = {}

    def ask(self, query: str, names: list[str], among: Container[int] | None = None) -> tuple[list[float], list[int]]:
        """The probabilities that the best passages answer, and these; `among` some of the passages or all."""
        count, reranker = KnowledgeConfig().candidates, AlignmentReranker()
        hits = {}
        for name in names:
            found = self.retrievers[name].search(query, count if among is None else len(self.kept))
            hits[name] = [hit for hit in found if among is None or hit.chunk_id in among][:count]
        fused = fuse(hits)[:count]
        texts, titles = self.collection.texts, self.collection.titles
        candidates = [Candidate(i.chunk_id, texts[i.chunk_id], titles[i.chunk_id], "", i.scores) for i in fused]
        weights = next((found for name in names if (found := self.retrievers[name].term_weights(query))), {})
        scores = reranker.score(query, candidates, weights)
        order = sorted(range(len(candidates)), key=lambda place: -scores[place])
        best = [candidates[place] for place in order]
        relevance = reranker.relevance(query, best, [scores[place] for place in order])[:SHOWN]
        return relevance, [item.chunk_id for item in best[:SHOWN]]

    def shift(self, names: list[str]) -> float:
        """What calibration adds to the log-odds here with some of the retrievers."""
        key = "+".join(names)
        if key not in self._shifts:
            texts, titles = self.collection.texts, self.collection.titles

            def ask(question: str, among: Container[int]) -> list[tuple[str, float]]:
                relevance, best = self.ask(question, names, among)
                return [(texts[i], value) for i, value in zip(best, relevance, strict=True)]

            files = {i: titles[i] for i in self.kept}
            allowed = KnowledgeConfig().false_answers or 1.0
            made = calibrate(files, lambda ids: ((i, texts[i]) for i in ids), ask, allowed=allowed)
            self._shifts[key] = made.shift
        return self._shifts[key]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus, queries and qrels")
    parser.add_argument("--retrievers", nargs="+", default=SETS, metavar="A+B", help="sets of retrievers")
    parser.add_argument("--questions", type=int, default=800)
    options = parser.parse_args()
    collection = Collection(options.data, titles=True)
    names = sorted({name for one in options.retrievers for name in one.split("+")})
    registry = load_plugins(",".join([*names, "rag"])).registry
    every = list(range(len(collection.texts)))
    of = {title: [i for i in every if collection.titles[i] == title] for title in sorted(set(collection.titles))}
    whole = Asked(collection, every, names, registry)
    alone = {title: Asked(collection, kept, names, registry) for title, kept in of.items()}
    without = {title: Asked(collection, sorted(set(every) - set(kept)), names, registry) for title, kept in of.items()}
    queries = random.Random(0).sample(collection.queries, min(options.questions, len(collection.queries)))
    threshold = KnowledgeConfig().threshold
    print(f"{len(queries)} questions, threshold {threshold}")
    head = ("all: right", "shown", "article: right", "shown", "nothing right", "Brier")
    print(f"{'retrievers':<20}" + "".join(f"{cell:>16}" for cell in head))
    for one in options.retrievers:
        parts = one.split("+")
        plain, calibrated, rights, begin = [], [], [], time.perf_counter()
        for name, query in queries:
            title = collection.titles[min(collection.right[name])]
            for asked in (whole, alone[title], without[title]):
                relevance, best = asked.ask(query, parts)
                shift = asked.shift(parts)
                plain.append(confidence(relevance))
                calibrated.append(confidence([shifted(value, shift) for value in relevance]))
                rights.append(bool(collection.right[name] & set(best)))
        right = np.array(rights).reshape(-1, 3)
        for label, said in ((one, plain), ("  calibrated", calibrated)):
            print_row(label, np.array(said).reshape(-1, 3), right, threshold)
        shifts = sorted(asked.shift(parts) for asked in (whole, *without.values()))
        print(f"  shifts {shifts[0]:.2f} to {shifts[-1]:.2f}; {time.perf_counter() - begin:.0f} s", flush=True)


def print_row(label: str, said: np.ndarray[Any, Any], right: np.ndarray[Any, Any], threshold: float) -> None:
    """Print the figures of one set of retrievers.

    Args:
        label: stands before them.
        said: (Q, 3), the probability that is said in each collection.
        right: (Q, 3), whether a right passage is among the best.
        threshold: from which on something is shown.
    """
    shown = said >= threshold
    cells = [100 * (shown & right)[:, place].sum() / max(right[:, place].sum(), 1) for place in (0, 1)]
    rights = 100 * right.mean(0)
    row = [rights[0], cells[0], rights[1], cells[1], 100 * shown[:, 2].mean()]
    print(
        f"{label:<20}" + "".join(f"{value:>16.1f}" for value in row) + f"{((said - right) ** 2).mean():>16.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
