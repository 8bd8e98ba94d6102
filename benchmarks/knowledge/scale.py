"""Speed and memory of search at several sizes, beside other libraries, all in one run.

    python benchmarks/knowledge/scale.py [--sizes 10000 100000] [--queries 200] [--rounds 3] [--only NAME ...]
                                         [--beside-first] [--limit 1500] [--json] [--output FILE]

Passages of 60 words are drawn from a Zipf distribution over made-up words (seeded), questions of 6 words from the same,
so any size can be had and every run has the same. All lexical indexes get the same words, split at blanks. Each index
is measured in a process of its own; `MiB` is what that process's peak grew by from when texts lay in memory. All
questions are asked again and again for half a second, one by one and then in one call, of each index in turn,
`--rounds` times; the median is given, in JSON least and most too, and the share of the first index's speed in the same
rounds (`to first`). An index that would take more than ten seconds for all questions is asked fewer of them (`asked`),
at least three. One that is not built within `--limit` seconds is ended, and that is said. With `--beside-first` only
the first index and one other are in memory at a time, each asked in turn with the first: a million passages then need
12 GiB. Luna's `bm25` is measured with compiled loops (numba) and without; it also adds 1 % and removes 1 %, given as a
share of the time to build. FAISS gets random unit vectors (128), so its figures tell speed only.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from figures import add_options, tell

WORDS, LENGTH, ASKED, K, DIMENSION = 200_000, 60, 6, 10, 128
SECONDS = 0.5
"""How long a measurement takes at least."""
PASS, FEWEST = 10.0, 3
"""How long it may take to ask all questions once, else fewer are asked; and how many at least."""
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


ENGINES: dict[str, tuple[str, Callable[[list[str]], tuple[Batch, Any]]]] = {
    # name: (module that it needs, how to build)
    "luna numba": ("numba", lambda texts: luna(texts, numba=True)),
    "luna numpy": ("luna_plugin_bm25", lambda texts: luna(texts, numba=False)),
    "bm25s numba": ("numba", lambda texts: bm25s(texts, "numba")),
    "bm25s numpy": ("bm25s", lambda texts: bm25s(texts, "numpy")),
    "rank-bm25": ("rank_bm25", rank_bm25),
    "scikit-learn": ("sklearn", sklearn),
    "faiss flat": ("faiss", lambda texts: faiss(texts, "flat")),
    "faiss hnsw": ("faiss", lambda texts: faiss(texts, "hnsw")),
}


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(name: str, size: int, queries: list[str], pipe: Connection) -> None:
    """Build one index, then answer rounds of questions until told to stop."""
    texts, more = make_texts(size, 1), make_texts(max(size // 100, 1), 3)
    pipe.send("texts")
    held, begin = peak(), time.perf_counter()
    search, index = ENGINES[name][1](texts)
    figures = {"index_s": time.perf_counter() - begin}
    pipe.send("built")
    search(queries[:2])  # numba compiles for both kinds of call
    search(queries[:1])
    begin = time.perf_counter()
    search(queries[:FEWEST])
    queries = queries[: max(FEWEST, int(PASS / (time.perf_counter() - begin) * FEWEST))]
    search(queries)
    if name.startswith("luna"):
        begin = time.perf_counter()
        index.add(range(size, size + len(more)), more)
        search(queries[:1])
        figures["add_1%"] = 100 * (time.perf_counter() - begin) / figures["index_s"]
        begin = time.perf_counter()
        index.remove(range(size, size + len(more)))
        search(queries[:1])
        figures["remove_1%"] = 100 * (time.perf_counter() - begin) / figures["index_s"]
    pipe.send({**figures, "MiB": peak() - held, "asked": len(queries)})
    while pipe.recv():
        one, together = speed(lambda: [search([query]) for query in queries]), speed(lambda: search(queries))
        pipe.send((len(queries) * one, len(queries) * together))


def speed(ask: Callable[[], Any]) -> float:
    """Times per second that `ask` can be done, after once, when what was idle is at work again."""
    ask()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + SECONDS:
        ask()
        count += 1
    return count / (time.perf_counter() - begin)


class Engine:
    """One index in a process of its own, and its figures."""

    def __init__(self, name: str, size: int, queries: list[str], limit: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=serve, args=(name, size, queries, theirs))
        self.process.start()
        theirs.close()  # so that an end of the process is the end of the pipe
        self.speeds: list[tuple[float, float]] = []
        self.figures: dict[str, float | str] = {}
        try:
            self.pipe.recv()  # texts are there
            if not self.pipe.poll(limit):
                self.process.kill()
                self.figures = {"unfinished": f"not built in {limit:.0f} s"}
                return
            self.pipe.recv()
            self.figures = self.pipe.recv()
        except EOFError:
            self.process.join()
            killed = self.process.exitcode == -signal.SIGKILL
            self.figures = {"unfinished": "out of memory" if killed else f"ended with {self.process.exitcode}"}

    def ask(self) -> None:
        """One round of questions, if the index could be built."""
        if "unfinished" not in self.figures:
            self.pipe.send(True)
            self.speeds.append(self.pipe.recv())

    def finish(self, beside: Sequence[tuple[float, float]] = ()) -> dict[str, float | str]:
        """End the process and give the figures, `to first` by the speeds of the first index in the same rounds."""
        if self.speeds:
            self.pipe.send(False)
            for place, key in enumerate(("q/s", "batch q/s")):
                every = [pair[place] for pair in self.speeds]
                self.figures |= {key: statistics.median(every), f"{key} least": min(every), f"{key} most": max(every)}
                if beside:
                    shares = [pair[place] / other[place] for pair, other in zip(self.speeds, beside, strict=True)]
                    self.figures[f"{key} to first"] = statistics.median(shares)
        self.process.join()
        return self.figures


def measure(names: list[str], options: argparse.Namespace, size: int) -> dict[str, dict[str, float | str]]:
    """Figures of each engine at one size."""
    queries = make_texts(options.queries, 2, ASKED)
    first, *others = names
    engines = {first: Engine(first, size, queries, options.limit)}
    rows = {}
    for group in [[name] for name in others] if options.beside_first else [others]:
        engines |= {name: Engine(name, size, queries, options.limit) for name in group}
        for _ in range(options.rounds):
            for engine in engines.values():
                engine.ask()
        beside = engines[first].speeds[-options.rounds :]
        rows |= {name: engines.pop(name).finish(beside) for name in group}
    return {first: engines[first].finish(), **rows}


def show(size: int, rows: dict[str, dict[str, float | str]]) -> None:
    """Print a table."""
    columns = ("index_s", "MiB", "q/s", "to first", "batch q/s", "to first", "asked", "add_1%", "remove_1%")
    keys = ("index_s", "MiB", "q/s", "q/s to first", "batch q/s", "batch q/s to first", *columns[6:])
    print(f"\n{size:<14,}" + "".join(f"{column:>12}" for column in columns))
    for name, figures in rows.items():
        cells = (f"{figures[key]:>12.4g}" if key in figures else f"{'–':>12}" for key in keys)
        print(f"{name:<14}" + (f"  {figures['unfinished']}" if "unfinished" in figures else "".join(cells)), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(ENGINES), help="in this order")
    parser.add_argument("--beside-first", action="store_true", help="only the first and one other in memory at a time")
    parser.add_argument("--limit", type=float, default=1500, help="seconds in which an index must be built")
    add_options(parser)
    options = parser.parse_args()
    every: dict[str, Any] = {}
    names = [name for name in options.only or ENGINES if importlib.util.find_spec(ENGINES[name][0])]
    for size in options.sizes:
        rows = every[str(size)] = measure(names, options, size)
        if not options.json:
            show(size, rows)
    tell(options, {"sizes": every})


if __name__ == "__main__":
    main()
