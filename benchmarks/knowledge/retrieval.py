"""Retrieval quality on a folder with `corpus.jsonl`, `queries.jsonl` and `qrels.tsv` (BEIR's layout), peers in one run.

    python benchmarks/knowledge/retrieval.py --data DIR [--no-title] [--ask WAY ...] [--typos 0.33] [--json]
                                             [--encoder FOLDER ...] [--model NAME ...] [--only TEXT ...]
    python benchmarks/knowledge/retrieval.py --data DIR --output benchmarks/results/retrieval-squad-pt.json

Prints MRR@10 with its standard error, nDCG@10 and recall@1, @5, @10 in percent, seconds to index, and milliseconds per
question, for Luna's retrievers, for their fusion with and without the reranker, and for what of rank-bm25, bm25s
(with PyStemmer for stems) and scikit-learn is installed. Each index is made once and asked in each way: as the
questions are, without accents, with typing errors in a share of the long words, and with both. `--encoder` names
folders of sentence-transformers and `--model` Luna models to encode with; `--only` takes the rows whose name holds one
of the texts.
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

from figures import add_options, tell
from measures import DEPTH, average, judge
from peers import PEERS, Ranking, missing, versions

WAYS = ("plain", "no-accents", "typos", "both")


class Collection:
    """Texts, questions, and which text answers which question."""

    def __init__(self, folder: Path, *, titles: bool) -> None:
        self.corpus = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
        queries = [json.loads(line) for line in (folder / "queries.jsonl").open(encoding="utf-8")]
        number = {item["_id"]: place for place, item in enumerate(self.corpus)}
        self.right: dict[str, set[int]] = {}
        for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
            query, text, grade = line.split("\t")
            if int(grade) > 0:
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
    """What `average` gives, and milliseconds per query."""
    begin = time.perf_counter()
    rankings = [rank(query) for _, query in queries]
    seconds = time.perf_counter() - begin
    judged = [judge(found, collection.right[name]) for (name, _), found in zip(queries, rankings, strict=True)]
    return {**average(judged), "ms": 1000 * seconds / len(queries)}


def luna_retrievers(collection: Collection, encoders: dict[str, dict[str, Any]]) -> dict[str, Callable[[], Ranking]]:
    """Luna's retrievers and their fusion, each by a function that indexes and returns how to search."""
    from luna_kernel.plugins import load_plugins

    installed = [name for name in ("bm25", "tfidf", "faiss") if importlib.util.find_spec(f"luna_plugin_{name}")]
    extra = ["encoders"] if encoders else []
    registry = load_plugins(",".join([*installed, *extra, "rag"])).registry

    def build(name: str, **node: Any) -> Any:
        component = registry.get("retriever", name)
        retriever = component.load()(component.make_config(node), registry)
        retriever.add(range(len(collection.texts)), collection.with_titles)
        return retriever

    def single(name: str, **node: Any) -> Callable[[], Ranking]:
        def make() -> Ranking:
            retriever = build(name, **node)
            return lambda query: [hit.chunk_id for hit in retriever.search(query, DEPTH)]

        return make

    def hybrid(names: list[str], *, rerank: bool, spelling: bool = False, **nodes: Any) -> Callable[[], Ranking]:
        def make() -> Ranking:
            from luna_plugin_rag.fusion import fuse
            from luna_plugin_rag.relevance import AlignmentReranker
            from luna_plugin_rag.spelling import corrected

            from luna_kernel.contracts.retrievers import Candidate

            retrievers = {name: build(name, **nodes.get(name, {})) for name in names}
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
    found["bm25, expansion 0.3"] = single("bm25", expansion=0.3)
    pair = [name for name in ("bm25", "tfidf") if name in installed]
    found["hybrid (bm25+tfidf, RRF)"] = hybrid(pair, rerank=False)
    found["hybrid (bm25+tfidf, reranked)"] = hybrid(pair, rerank=True)
    found["the same, spelling mended"] = hybrid(pair, rerank=True, spelling=True)
    if "faiss" in installed:
        found["hybrid (all, RRF)"] = hybrid([*pair, "faiss"], rerank=False)
        found["hybrid (all, reranked)"] = hybrid([*pair, "faiss"], rerank=True)
    for name, encoder in encoders.items():
        found[f"faiss, {name}"] = single("faiss", encoder=encoder)
        found[f"hybrid + {name}, RRF"] = hybrid([*pair, "faiss"], rerank=False, faiss={"encoder": encoder})
        found[f"hybrid + {name}, reranked"] = hybrid([*pair, "faiss"], rerank=True, faiss={"encoder": encoder})
    return found


def makers(collection: Collection, encoders: dict[str, dict[str, Any]]) -> dict[str, Callable[[], Ranking]]:
    """All that is measured: the peers that are installed, then Luna's. Says on stderr which peers are not."""
    found: dict[str, Callable[[], Ranking]] = {}
    for name, (_, make) in PEERS.items():
        if lacking := missing(name):
            print(f"{name}: left out, not installed: {', '.join(lacking)}", file=sys.stderr)
        else:
            found[name] = lambda make=make: make(collection.with_titles)  # type: ignore[misc]
    return {**found, **luna_retrievers(collection, encoders)}


def ask(queries: list[tuple[str, str]], way: str, typos: float) -> list[tuple[str, str]]:
    """The questions as they are typed in that way; the same each time."""
    if way in ("no-accents", "both"):
        from luna_kernel.data.portuguese import fold

        queries = [(name, fold(query)) for name, query in queries]
    if way in ("typos", "both"):
        rng = random.Random(0)
        queries = [(name, with_typos(query, typos, rng)) for name, query in queries]
    return queries


def print_table(way: str, rows: dict[str, dict[str, float]]) -> None:
    """One way of asking: a row for each retriever."""
    for number, (name, figures) in enumerate(rows.items()):
        if not number:
            print(f"\n{way:<32}" + "".join(f"{key:>11}" for key in figures))
        print(f"{name:<32}" + "".join(f"{value:>11.2f}" for value in figures.values()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with corpus, queries and qrels")
    parser.add_argument("--no-title", action="store_true", help="leave the titles of the corpus out")
    parser.add_argument("--ask", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--typos", type=float, default=0.33, help="share of long words with a typing error (0.33)")
    parser.add_argument("--encoder", nargs="+", default=[], metavar="FOLDER", help="of sentence-transformers")
    parser.add_argument("--model", nargs="+", default=[], metavar="NAME", help="Luna models")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="rows whose name holds one of these")
    add_options(parser)
    options = parser.parse_args()
    collection = Collection(options.data, titles=not options.no_title)
    asked = {way: ask(collection.queries, way, options.typos) for way in options.ask}
    tables: dict[str, dict[str, dict[str, float]]] = {way: {} for way in asked}
    encoders = {Path(name).name: {"name": "sentence_transformers", "folder": name} for name in options.encoder}
    encoders |= {Path(name).name: {"name": "model", "model": name} for name in options.model}
    for name, make in makers(collection, encoders).items():
        if not any(text in name for text in options.only):
            continue
        print(name, file=sys.stderr, flush=True)
        begin = time.perf_counter()
        rank = make()
        seconds = time.perf_counter() - begin
        for way, queries in asked.items():
            figures = {**measure(rank, collection, queries), "index_s": seconds}
            tables[way][name] = {key: round(value, 3) for key, value in figures.items()}
    about: dict[str, Any] = {
        "texts": len(collection.texts),
        "questions": len(collection.queries),
        "typos": options.typos,
    }
    tell(options, {**about, "titles": not options.no_title, "versions": versions(), "asked": tables})
    if options.json:
        return
    print("{texts} texts, {questions} questions, typing errors in {typos} of the long words".format(**about))
    for way, rows in tables.items():
        print_table(way, rows)


if __name__ == "__main__":
    main()
