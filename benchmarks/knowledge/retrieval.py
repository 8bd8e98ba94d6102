"""Retrieval quality on a folder with `corpus.jsonl`, `queries.jsonl` and `qrels.tsv` (BEIR's layout), peers in one run.

    python benchmarks/knowledge/retrieval.py --data DIR [--no-title] [--without-accents] [--typos 0.33] [--json]

Prints MRR@10 and recall@1, @5, @10 in percent, seconds to index, and milliseconds per query, for Luna's retrievers, for
their fusion with and without the reranker, and for rank-bm25 and bm25s as one would use them without further thought.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ranking = Callable[[str], list[int]]
DEPTH = 10


class Collection:
    """Texts, questions, and which text answers which question."""

    def __init__(self, folder: Path, *, titles: bool) -> None:
        self.corpus = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
        queries = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
        number = {item["_id"]: place for place, item in enumerate(self.corpus)}
        self.right: dict[str, set[int]] = {}
        for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            query, text, _ = line.split("\t")
            self.right.setdefault(query, set()).add(number[text])
        self.titles = [item.get("title", "").replace("_", " ") if titles else "" for item in self.corpus]
        self.texts = [item["text"] for item in self.corpus]
        self.with_titles = [
            f"{title}\n{text}" if title else text for title, text in zip(self.titles, self.texts, strict=True)
        ]
        """What a retriever is given: title and text."""
        self.queries = [(item["_id"], item["text"]) for item in queries if item["_id"] in self.right]


def with_typos(text: str, share: float, rng: random.Random) -> str:
    """`text` with one swapped, lost, doubled or wrong letter in that share of its words of five letters and more."""
    words = text.split(" ")
    for place, word in enumerate(words):
        if len(word) >= 5 and rng.random() < share:
            at = rng.randrange(1, len(word) - 1)
            words[place] = rng.choice(
                [
                    word[:at] + word[at + 1] + word[at] + word[at + 2 :],
                    word[:at] + word[at + 1 :],
                    word[:at] + word[at] + word[at:],
                    word[:at] + rng.choice("aeiorstnlm") + word[at + 1 :],
                ]
            )
    return " ".join(words)


def measure(rank: Ranking, collection: Collection, queries: list[tuple[str, str]]) -> dict[str, float]:
    """MRR@10 and recall@1, 5, 10 in percent, and milliseconds per query."""
    places = []
    begin = time.perf_counter()
    for name, query in queries:
        found = rank(query)[:DEPTH]
        right = collection.right[name]
        places.append(next((place for place, text in enumerate(found, 1) if text in right), 0))
    seconds = time.perf_counter() - begin
    count = len(places) / 100
    return {
        "mrr@10": sum(1 / place for place in places if place) / count,
        "recall@1": sum(place == 1 for place in places) / count,
        "recall@5": sum(1 <= place <= 5 for place in places) / count,
        "recall@10": sum(1 <= place <= 10 for place in places) / count,
        "ms": 1000 * seconds / len(places),
    }


def luna_retrievers(collection: Collection) -> dict[str, Callable[[], Ranking]]:
    """Luna's retrievers and their fusion, each by a function that indexes and returns how to search."""
    from luna_kernel.plugins import load_plugins

    installed = [name for name in ("bm25", "tfidf", "faiss") if importlib.util.find_spec(f"luna_plugin_{name}")]
    registry = load_plugins(",".join([*installed, "rag"])).registry

    def build(name: str, **node: Any) -> Any:
        component = registry.get("retriever", name)
        retriever = component.load()(component.make_config(node), registry)
        retriever.add(range(len(collection.texts)), collection.with_titles)
        return retriever

    def single(name: str) -> Callable[[], Ranking]:
        def make() -> Ranking:
            retriever = build(name)
            return lambda query: [hit.chunk_id for hit in retriever.search(query, DEPTH)]

        return make

    def hybrid(names: list[str], *, rerank: bool, spelling: bool = False) -> Callable[[], Ranking]:
        def make() -> Ranking:
            from luna_plugin_rag.fusion import fuse
            from luna_plugin_rag.relevance import AlignmentReranker
            from luna_plugin_rag.spelling import corrected

            from luna_kernel.contracts.retrievers import Candidate

            retrievers = {name: build(name) for name in names}
            reranker = AlignmentReranker()

            def search(query: str) -> list[int]:
                if spelling:
                    query = corrected(query, retrievers["bm25"].frequencies)
                hits = {name: retriever.search(query, 50) for name, retriever in retrievers.items()}
                fused = fuse(hits)
                if not rerank:
                    return [item.chunk_id for item in fused]
                candidates = [
                    Candidate(i.chunk_id, collection.texts[i.chunk_id], collection.titles[i.chunk_id], "", i.scores)
                    for i in fused[:30]
                ]
                scores = reranker.score(query, candidates, retrievers["bm25"].term_weights(query))
                order = sorted(range(len(candidates)), key=lambda i: -scores[i])
                return [candidates[i].chunk_id for i in order]

            return search

        return make

    found: dict[str, Callable[[], Ranking]] = {name: single(name) for name in installed}
    pair = [name for name in ("bm25", "tfidf") if name in installed]
    found["hybrid (bm25+tfidf, RRF)"] = hybrid(pair, rerank=False)
    found["hybrid (bm25+tfidf, reranked)"] = hybrid(pair, rerank=True)
    found["the same, spelling mended"] = hybrid(pair, rerank=True, spelling=True)
    if "faiss" in installed:
        found["hybrid (all, RRF)"] = hybrid([*pair, "faiss"], rerank=False)
        found["hybrid (all, reranked)"] = hybrid([*pair, "faiss"], rerank=True)
    return found


def peers(collection: Collection) -> dict[str, Callable[[], Ranking]]:
    """rank-bm25 on whitespace, bm25s with its defaults, where they are installed."""
    found: dict[str, Callable[[], Ranking]] = {}
    texts = collection.with_titles
    if importlib.util.find_spec("rank_bm25"):

        def make_rank_bm25() -> Ranking:
            import numpy as np
            from rank_bm25 import BM25Okapi

            index = BM25Okapi([text.split() for text in texts])
            return lambda query: np.argsort(-index.get_scores(query.split()), kind="stable")[:DEPTH].tolist()

        found["rank-bm25, split()"] = make_rank_bm25
    if importlib.util.find_spec("bm25s"):

        def make_bm25s() -> Ranking:
            import bm25s

            index = bm25s.BM25()
            index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)

            def search(query: str) -> list[int]:
                tokens = bm25s.tokenize([query], show_progress=False)
                return [int(i) for i in index.retrieve(tokens, k=DEPTH, show_progress=False)[0][0]]

            return search

        found["bm25s, default"] = make_bm25s
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus, queries and qrels")
    parser.add_argument("--no-title", action="store_true", help="leave the titles of the corpus out")
    parser.add_argument("--without-accents", action="store_true", help="ask without accents")
    parser.add_argument("--typos", type=float, default=0.0, help="share of long words with a typing error")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    collection = Collection(options.data, titles=not options.no_title)
    queries = collection.queries
    if options.without_accents:
        from luna_kernel.data.portuguese import fold

        queries = [(name, fold(query)) for name, query in queries]
    if options.typos:
        rng = random.Random(0)
        queries = [(name, with_typos(query, options.typos, rng)) for name, query in queries]
    rows = {}
    for name, make in {**peers(collection), **luna_retrievers(collection)}.items():
        begin = time.perf_counter()
        rank = make()
        seconds = time.perf_counter() - begin
        rows[name] = {**measure(rank, collection, queries), "index_s": seconds}
        if not options.json:
            figures = rows[name]
            if len(rows) == 1:
                print(f"{len(collection.texts)} texts, {len(queries)} questions")
                print(f"{'':<32}" + "".join(f"{key:>11}" for key in figures))
            print(f"{name:<32}" + "".join(f"{value:>11.2f}" for value in figures.values()), flush=True)
    if options.json:
        json.dump(rows, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
