"""Whether a threshold means the same whatever retrievers a knowledge base has.

    python benchmarks/knowledge/thresholds.py --data DIR [--retrievers bm25+tfidf bm25 ...] [--questions 800]

Each question is asked of three collections: all passages, those of its article, and all but those of its article, where
nothing is right. For each set of retrievers, in percent: how often one of the four best passages is the right one, how
often that is shown at the threshold, how often anything is shown where nothing is right; and the Brier score of the
probability that is said (0 is best; the mean over the three collections).
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
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

    def ask(self, query: str, names: list[str]) -> tuple[float, list[int]]:
        """The probability that one of the best passages answers, and these."""
        count, reranker = KnowledgeConfig().candidates, AlignmentReranker()
        fused = fuse({name: self.retrievers[name].search(query, count) for name in names})[:count]
        texts, titles = self.collection.texts, self.collection.titles
        candidates = [Candidate(i.chunk_id, texts[i.chunk_id], titles[i.chunk_id], "", i.scores) for i in fused]
        weights = next((found for name in names if (found := self.retrievers[name].term_weights(query))), {})
        scores = reranker.score(query, candidates, weights)
        order = sorted(range(len(candidates)), key=lambda place: -scores[place])
        best = [candidates[place] for place in order]
        relevance = reranker.relevance(query, best, [scores[place] for place in order])[:SHOWN]
        return 1 - math.prod(1 - value for value in relevance), [item.chunk_id for item in best[:SHOWN]]


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
        rows = []
        for name, query in queries:
            title = collection.titles[min(collection.right[name])]
            for asked in (whole, alone[title], without[title]):
                said, best = asked.ask(query, one.split("+"))
                rows.append((said, bool(collection.right[name] & set(best))))
        said, right = (np.array([row[part] for row in rows]).reshape(-1, 3) for part in (0, 1))
        shown = said >= threshold
        cells = [100 * (shown & right)[:, place].sum() / max(right[:, place].sum(), 1) for place in (0, 1)]
        rights = 100 * right.mean(0)
        brier = ((said - right) ** 2).mean()
        row = [rights[0], cells[0], rights[1], cells[1], 100 * shown[:, 2].mean()]
        print(f"{one:<20}" + "".join(f"{value:>16.0f}" for value in row) + f"{brier:>16.3f}", flush=True)


if __name__ == "__main__":
    main()
