"""Speed and memory of search at several sizes, beside other libraries, all in one run.

    python benchmarks/knowledge/scale.py [--sizes 10000 100000] [--queries 200] [--rounds 3] [--only NAME ...]
                                         [--json] [--output FILE]

Passages of 60 words are drawn from a Zipf distribution over made-up words (seeded), questions of 6 words from the same,
so any size can be had and every run has the same. All lexical indexes get the same words, split at blanks. Each index
is measured in a process of its own; `MiB` is what that process's peak grew by from when texts lay in memory. All
questions are asked again and again for half a second, one by one and then in one call, of each index in turn,
`--rounds` times; the median is given, in JSON least and most too. Luna's `bm25` is measured with compiled loops (numba)
and without; it also adds 1 % and removes 1 %, given as a share of the time to build. FAISS gets random unit vectors
(128), so its figures tell speed only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from luna_kernel.base.machine import cpu

WORDS, LENGTH, ASKED, K, DIMENSION = 200_000, 60, 6, 10, 128
SECONDS = 0.5
"""How long a measurement takes at least."""
Batch = Callable[[list[str]], Any]


def make_texts(count: int, seed: int, length: int = LENGTH) -> list[str]:
    """Texts of made-up words, a few frequent and most rare; the two hundred most frequent left out as stop words."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(200, WORDS + 200)
    drawn = rng.choice(WORDS, size=(count, length), p=chance / chance.sum())
    names = [f"w{number}x" for number in range(WORDS)]
    return [" ".join(names[number] for number in row) for row in drawn]


def luna(texts: list[str], *, numba: bool) -> tuple[Batch, Any]:
    """Luna's `bm25`, with its own reading of text."""
    from luna_plugin_bm25.retriever import BM25Retriever

    from luna_kernel.data.compiled import loops

    if not numba:
        sys.modules["numba"] = None  # type: ignore[assignment]  # as if it were not installed
    elif loops(wait=True) is None:
        raise SystemExit("numba does not work here")
    index = BM25Retriever()
    index.add(range(len(texts)), texts)
    return lambda queries: [hits.ids for hits in index.search_each(queries, K)], index


def rank_bm25(texts: list[str]) -> tuple[Batch, Any]:
    """rank-bm25."""
    from rank_bm25 import BM25Okapi

    index = BM25Okapi([text.split() for text in texts])
    return lambda queries: [np.argsort(-index.get_scores(query.split()))[:K] for query in queries], index


def bm25s(texts: list[str], backend: str) -> tuple[Batch, Any]:
    """bm25s, with numba or without."""
    import bm25s as library

    index = library.BM25(k1=1.2, b=0.75, backend=backend)
    index.index([text.split() for text in texts], show_progress=False)
    return lambda queries: index.retrieve([query.split() for query in queries], k=K, show_progress=False)[0], index


def sklearn(texts: list[str]) -> tuple[Batch, Any]:
    """scikit-learn's TF-IDF and a sparse product."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer=str.split)
    matrix = vectorizer.fit_transform(texts).T.tocsr()

    def search(queries: list[str]) -> Any:
        found = []
        for query in queries:
            scores = (vectorizer.transform([query]) @ matrix).toarray()[0]
            found.append(np.argpartition(-scores, K)[:K])
        return found

    return search, matrix


def faiss(texts: list[str], kind: str) -> tuple[Batch, Any]:
    """FAISS over random unit vectors."""
    import faiss as library

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((len(texts), DIMENSION), dtype=np.float32)
    library.normalize_L2(vectors)
    flat = library.METRIC_INNER_PRODUCT
    index = library.IndexHNSWFlat(DIMENSION, 32, flat) if kind == "hnsw" else library.IndexFlatIP(DIMENSION)
    index.add(vectors)
    asked = rng.standard_normal((1000, DIMENSION), dtype=np.float32)
    return lambda queries: index.search(asked[: len(queries)], K)[1], index


ENGINES: dict[str, tuple[str, Callable[[list[str]], tuple[Batch, Any]], int]] = {
    # name: (module, how to build, most texts at which it is worth the wait)
    "luna numba": ("numba", lambda texts: luna(texts, numba=True), 10**9),
    "luna numpy": ("luna_plugin_bm25", lambda texts: luna(texts, numba=False), 10**9),
    "bm25s numba": ("numba", lambda texts: bm25s(texts, "numba"), 10**9),
    "bm25s numpy": ("bm25s", lambda texts: bm25s(texts, "numpy"), 10**9),
    "rank-bm25": ("rank_bm25", rank_bm25, 10_000),
    "scikit-learn": ("sklearn", sklearn, 100_000),
    "faiss flat": ("faiss", lambda texts: faiss(texts, "flat"), 10**9),
    "faiss hnsw": ("faiss", lambda texts: faiss(texts, "hnsw"), 100_000),
}


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(name: str, size: int, queries: list[str], pipe: Connection) -> None:
    """Build one index, then answer rounds of questions until told to stop."""
    texts, more = make_texts(size, 1), make_texts(max(size // 100, 1), 3)
    held, begin = peak(), time.perf_counter()
    search, index = ENGINES[name][1](texts)
    figures = {"index_s": time.perf_counter() - begin}
    search(queries[:5])
    search(queries)  # numba compiles for both kinds of call
    if name.startswith("luna"):
        begin = time.perf_counter()
        index.add(range(size, size + len(more)), more)
        search(queries[:1])
        figures["add_1%"] = 100 * (time.perf_counter() - begin) / figures["index_s"]
        begin = time.perf_counter()
        index.remove(range(size, size + len(more)))
        search(queries[:1])
        figures["remove_1%"] = 100 * (time.perf_counter() - begin) / figures["index_s"]
    figures["MiB"] = peak() - held
    pipe.send(figures)
    while pipe.recv():
        pipe.send((speed(lambda: [search([query]) for query in queries]), speed(lambda: search(queries))))


def speed(ask: Callable[[], Any]) -> float:
    """Times per second that `ask` can be done, after once, when what was idle is at work again."""
    ask()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + SECONDS:
        ask()
        count += 1
    return count / (time.perf_counter() - begin)


def measure(size: int, names: list[str], queries: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Figures of each engine at one size."""
    context = multiprocessing.get_context("spawn")
    rows, workers = {}, []
    for name in names:
        ours, theirs = context.Pipe()
        worker = context.Process(target=serve, args=(name, size, queries, theirs))
        worker.start()
        rows[name] = ours.recv()
        workers.append((name, worker, ours))
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, _, pipe in workers:
            pipe.send(True)
            speeds[name].append(pipe.recv())
    for name, worker, pipe in workers:
        pipe.send(False)
        worker.join()
        for place, key in enumerate(("q/s", "batch q/s")):
            every = [len(queries) * one[place] for one in speeds[name]]
            rows[name].update({key: statistics.median(every), f"{key} least": min(every), f"{key} most": max(every)})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(ENGINES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures there too, as JSON")
    options = parser.parse_args()
    queries = make_texts(options.queries, 2, ASKED)
    every: dict[str, Any] = {}
    columns = ("index_s", "MiB", "q/s", "batch q/s", "add_1%", "remove_1%")
    for size in options.sizes:
        wanted = [
            name
            for name, (module, _, most) in ENGINES.items()
            if importlib.util.find_spec(module) and size <= most and name in (options.only or ENGINES)
        ]
        rows = every[str(size)] = measure(size, wanted, queries, options.rounds)
        if not options.json:
            print(f"\n{size:<14,}" + "".join(f"{column:>12}" for column in columns))
            for name, figures in rows.items():
                cells = (f"{figures[key]:>12.1f}" if key in figures else f"{'–':>12}" for key in columns)
                print(f"{name:<14}" + "".join(cells), flush=True)
    if options.output:
        told = {"machine": cpu(), "sizes": every}
        options.output.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if options.json:
        json.dump(every, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
