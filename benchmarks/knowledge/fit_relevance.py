"""Fit the constants of `luna_plugin_rag.relevance` on questions with known passages.

    python benchmarks/knowledge/fit_relevance.py --data DIR

Each question is asked of six collections: all passages, all but those of its article, those of its article, those but
the right one, and eleven passages of its article with and without the right one. So half of the time the right answer
is "not found", and the hard cases (the same matter, but not the answer) are among them. One question in five is asked
once more cut short, as people type: what asks, and one to four of its other words, rare ones first of all; only the
calibration learns from these. Five folds over articles give the held-out figures; the constants printed at the end are
fitted on all of it. The evidence is made with the weights that stand in the code: after these have changed, run it
again, so that the calibration is that of the new ones.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from luna_plugin_rag.asking import LIGHT
from luna_plugin_rag.fusion import fuse
from luna_plugin_rag.relevance import CALIBRATION, EVIDENCE, FEATURES, WEIGHTS, Question
from retrieval import Collection

from luna_kernel.contracts.retrievers import Candidate
from luna_kernel.data.portuguese import STOP_WORDS, stem, words
from luna_kernel.plugins import load_plugins

CANDIDATES = 30
SHOWN = 4
"""Passages that an answer may rest on."""
SOME = 11
COLLECTIONS = (
    "all passages",
    "without its article",
    "its article",
    "without its passage",
    "some, with",
    "some, without",
)
FOLDS = 5
SHORT = 5
"""One question in so many is asked again cut short."""
SHORT_WEIGHT = 0.3
"""What such a question counts beside one as it is."""
COLLECTION_WEIGHTS = (2.0, 2.0, 1.0, 1.0, 1.0, 1.0)
"""What the collections count: there are four small ones to two large ones."""


class Searched:
    """Retrievers over some of the passages, and the question's features in them."""

    def __init__(self, collection: Collection, kept: list[int], registry: Any) -> None:
        self.collection = collection
        self.retrievers = {}
        for name in ("bm25", "tfidf"):
            component = registry.get("retriever", name)
            self.retrievers[name] = component.load()(component.make_config())
            self.retrievers[name].add(kept, [collection.with_titles[i] for i in kept])

    def ask(self, query: str) -> tuple[np.ndarray[Any, Any], list[Candidate]]:
        """Features (C, F), zero where there are fewer candidates, and the candidates."""
        fused = fuse({name: retriever.search(query, CANDIDATES) for name, retriever in self.retrievers.items()})
        question = Question(query, self.retrievers["bm25"].term_weights(query))
        texts, titles = self.collection.texts, self.collection.titles
        candidates = [
            Candidate(item.chunk_id, texts[item.chunk_id], titles[item.chunk_id], "", item.scores)
            for item in fused[:CANDIDATES]
        ]
        features = np.zeros((CANDIDATES, len(FEATURES)), np.float32)
        for place, row in enumerate(question.features(candidates)):
            features[place] = row
        return features, candidates


def cut_short(query: str, weights: Mapping[str, float], rng: random.Random) -> str:
    """A question's words up to the first that is not light, and one to four that are not, drawn by their weights."""
    said = words(query)
    content = [place for place, word in enumerate(said) if word not in STOP_WORDS and word not in LIGHT]
    chosen: set[int] = set()
    for _ in range(min(rng.randint(1, 4), len(content))):
        left = [place for place in content if place not in chosen]
        chosen.update(rng.choices(left, [weights.get(stem(said[place]), 1.0) for place in left]))
    first = min(content, default=len(said))
    return " ".join([*said[:first], *(said[place] for place in sorted(chosen))])


def gather(collection: Collection) -> dict[str, Any]:
    """Features (Q, C, F) over all passages with the place of the right one; and evidence in all six collections."""
    registry = load_plugins("bm25,tfidf").registry
    articles = sorted(set(collection.titles))
    of = {title: [i for i, other in enumerate(collection.titles) if other == title] for title in articles}
    every = list(range(len(collection.texts)))
    whole = Searched(collection, every, registry)
    without = {title: Searched(collection, sorted(set(every) - set(of[title])), registry) for title in articles}
    alone = {title: Searched(collection, of[title], registry) for title in articles}
    by_passage: dict[int, list[tuple[str, str]]] = {}
    for name, query in collection.queries:
        by_passage.setdefault(min(collection.right[name]), []).append((name, query))
    rng = random.Random(0)
    found: dict[str, list[Any]] = {"features": [], "place": [], "article": [], "evidence": [], "right": [], "short": []}
    for passage, queries in by_passage.items():
        title = collection.titles[passage]
        others = [i for i in of[title] if i != passage]
        some = sorted(rng.sample(others, min(SOME, len(others))))
        smaller = [Searched(collection, kept, registry) for kept in (others, [*some, passage], some)]
        searched = (whole, without[title], alone[title], *smaller)
        for number, (name, query) in enumerate(queries):
            asked = [query]
            if number % SHORT == 0:
                asked.append(cut_short(query, whole.retrievers["bm25"].term_weights(query), rng))
            for text in asked:
                first, *_ = answers = [one.ask(text) for one in searched]
                evidence, right = evidence_of(text, answers, collection.right[name])
                ids = [candidate.chunk_id for candidate in first[1]]
                places = [place for place, i in enumerate(ids) if i in collection.right[name]]
                found["features"].append(first[0])
                found["place"].append(places[0] if places else -1)
                found["evidence"].append(evidence)
                found["right"].append(right)
                found["article"].append(articles.index(title))
                found["short"].append(text is not query)
    return {key: np.stack(value) for key, value in found.items()}


Answer = tuple[np.ndarray[Any, Any], list[Candidate]]


def evidence_of(query: str, answers: Sequence[Answer], right: Set[int]) -> tuple[np.ndarray[Any, Any], ...]:
    """Evidence (collections, SHOWN, E) of the best passages, zero where there are fewer; which are right."""
    evidence = np.zeros((len(answers), SHOWN, len(CALIBRATION)), np.float32)
    is_right = np.zeros((len(answers), SHOWN), np.bool_)
    for kind, (features, candidates) in enumerate(answers):
        scores = features[: len(candidates)] @ np.asarray(WEIGHTS, np.float32)
        order = np.argsort(-scores, kind="stable")
        best = [candidates[i] for i in order]
        rows = Question(query, {}).evidence(best, [float(scores[i]) for i in order])[:SHOWN]
        for place, row in enumerate(rows):
            evidence[kind, place] = row
            is_right[kind, place] = best[place].chunk_id in right
    return evidence, is_right


def minimise(loss: Any, size: int) -> torch.Tensor:
    """The weights (size,) with the least loss."""
    weights = torch.zeros(size, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = loss(weights)
        value.backward()
        return value

    optimizer.step(closure)
    return weights.detach()


def fit_ranking(data: dict[str, Any], chosen: np.ndarray[Any, Any]) -> torch.Tensor:
    """Weights (F,) that put the right candidate first: softmax cross-entropy over the candidates."""
    chosen = chosen & (data["place"] >= 0) & ~data["short"]
    features, place = torch.from_numpy(data["features"][chosen]), torch.from_numpy(data["place"][chosen])
    return minimise(
        lambda w: torch.nn.functional.cross_entropy(features @ w, place) + 1e-3 * (w**2).sum(), features.shape[-1]
    )


def fit_calibration(data: dict[str, Any], chosen: np.ndarray[Any, Any]) -> torch.Tensor:
    """Logistic regression over the passages shown, in all collections."""
    evidence, right = data["evidence"][chosen], data["right"][chosen]
    there = evidence[..., 0] > 0
    x, y = torch.from_numpy(evidence[there]), torch.from_numpy(right[there].astype(np.float32))
    weights = np.where(data["short"][chosen], SHORT_WEIGHT, 1.0)[:, None, None] * np.array(COLLECTION_WEIGHTS)[:, None]
    w = torch.from_numpy(np.broadcast_to(weights, there.shape)[there].astype(np.float32))
    return minimise(lambda c: torch.nn.functional.binary_cross_entropy_with_logits(x @ c, y, weight=w), x.shape[1])


def report(probability: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> None:
    """Print how well probabilities meet frequencies, and what each threshold costs.

    Args:
        probability: (Q, collections, SHOWN), 0 where there is no passage.
        right: the same shape: whether the passage is the right one.
    """
    print("\nheld out, each passage: probability against how often it is right")
    for low in np.arange(0, 1, 0.1):
        inside = (probability >= max(low, 1e-12)) & (probability < low + 0.1)
        if inside.any():
            mean, share = probability[inside].mean(), right[inside].mean()
            print(f"  {low:.1f}-{low + 0.1:.1f}   n={inside.sum():<6} said {mean:.2f}   right {share:.2f}")
    print(f"Brier score {np.mean((probability - right)[probability > 0] ** 2):.4f}")
    union = 1 - np.prod(1 - probability, axis=-1)
    print("\nheld out, answered at each threshold on the probability that one of the passages is right, in percent")
    print(f"{'threshold':>10}" + "".join(f"{name:>21}" for name in COLLECTIONS))
    for threshold in (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6):
        kept = union >= threshold
        shares = [
            100 * (kept & right.any(-1))[:, kind].sum() / max(right.any(-1)[:, kind].sum(), 1)
            if kind % 2 == 0
            else 100 * kept[:, kind].mean()
            for kind in range(len(COLLECTIONS))
        ]
        print(f"{threshold:>10}" + "".join(f"{share:>21.1f}" for share in shares))


def main() -> None:
    """Fit, test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = gather(Collection(options.data, titles=True))
    folds = data["article"] % FOLDS
    rank = np.zeros(len(folds))
    probability = np.zeros(data["right"].shape)
    for fold in range(FOLDS):
        train, test = folds != fold, folds == fold
        scores = data["features"][test] @ fit_ranking(data, train).numpy()
        place = data["place"][test]
        own = np.take_along_axis(scores, np.maximum(place, 0)[:, None], 1)
        rank[test] = np.where(place >= 0, (scores > own).sum(1) + 1, 10_000)
        calibration = fit_calibration(data, train).numpy()
        evidence = data["evidence"][test]
        probability[test] = np.where(evidence[..., 0] > 0, 1 / (1 + np.exp(-evidence @ calibration)), 0)
    whole = ~data["short"]
    reciprocal = np.where(rank <= 10, 1 / rank, 0)[whole].mean()
    print(f"held-out reranking: MRR@10 {100 * reciprocal:.1f}, recall@1 {100 * (rank[whole] == 1).mean():.1f}")
    report(probability[whole], data["right"][whole])
    print("\nquestions that were cut short")
    report(probability[~whole], data["right"][~whole])
    everything = np.ones(len(folds), bool)
    print(f"\nWEIGHTS = ({', '.join(f'{float(w):.2f}' for w in fit_ranking(data, everything))})")
    print(f"EVIDENCE = {EVIDENCE}")
    print(f"CALIBRATION = ({', '.join(f'{float(w):.2f}' for w in fit_calibration(data, everything))})")


if __name__ == "__main__":
    main()
