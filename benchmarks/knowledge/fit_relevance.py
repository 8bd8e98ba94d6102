"""Fit the constants of `luna_plugin_rag.relevance` on questions whose passage is known, and test them on held-out articles.

    python benchmarks/knowledge/fit_relevance.py --data DIR

Each question is asked twice: of the whole collection, and of the collection without the article that its passage is
from, where the right answer is "not found" (leaving only the passage out would make its near twins wrong answers,
which some of them are not). Five folds over articles give the held-out figures; the constants printed at the end are
fitted on all of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from retrieval import Collection

CANDIDATES = 30
MAX_LEAD = 3.0
FOLDS = 5


def gather(collection: Collection) -> dict[str, Any]:
    """Features (Q, C, F) of the candidates of each question, with and without the article of its passage."""
    from luna_kernel.contracts.retrievers import Candidate
    from luna_kernel.plugins import load_plugins
    from luna_plugin_rag.fusion import fuse
    from luna_plugin_rag.relevance import FEATURES, Question

    registry = load_plugins("bm25,tfidf").registry
    texts, titles = collection.with_titles, collection.titles
    articles = sorted(set(titles))
    article_of = np.asarray([articles.index(title) for title in titles])

    def search(kept: list[int]) -> Any:
        retrievers = {}
        for name in ("bm25", "tfidf"):
            component = registry.get("retriever", name)
            retrievers[name] = component.load()(component.make_config())
            retrievers[name].add(kept, [texts[i] for i in kept])

        def run(query: str) -> tuple[np.ndarray[Any, Any], list[int]]:
            fused = fuse({name: retriever.search(query, 50) for name, retriever in retrievers.items()})[:CANDIDATES]
            question = Question(query, retrievers["bm25"].term_weights(query))
            features = np.zeros((CANDIDATES, len(FEATURES)), np.float32)
            for place, item in enumerate(fused):
                text = collection.texts[item.chunk_id]
                candidate = Candidate(item.chunk_id, text, titles[item.chunk_id], "", item.scores)
                features[place] = question.features(candidate)
            return features, [item.chunk_id for item in fused]

        return run

    whole = search(list(range(len(texts))))
    without = [search([i for i in range(len(texts)) if article_of[i] != a]) for a in range(len(articles))]
    found: dict[str, list[Any]] = {"whole": [], "without": [], "place": [], "article": []}
    for name, query in collection.queries:
        right = collection.right[name]
        article = article_of[min(right)]
        features, ids = whole(query)
        found["whole"].append(features)
        found["place"].append(next((place for place, i in enumerate(ids) if i in right), -1))
        found["without"].append(without[article](query)[0])
        found["article"].append(article)
    return {key: np.stack(value) for key, value in found.items()}


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
    chosen = chosen & (data["place"] >= 0)
    features, place = torch.from_numpy(data["whole"][chosen]), torch.from_numpy(data["place"][chosen])
    return minimise(
        lambda w: torch.nn.functional.cross_entropy(features @ w, place) + 1e-3 * (w**2).sum(), features.shape[-1]
    )


def leads(scores: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Of scores (Q, C): the place of the best, its score, and its lead over the second best."""
    best = scores.argmax(1)
    ordered = np.sort(scores, 1)
    return best, ordered[:, -1], np.minimum(ordered[:, -1] - ordered[:, -2], MAX_LEAD)


def calibration_set(data: dict[str, Any], chosen: np.ndarray[Any, Any], weights: torch.Tensor) -> Any:
    """(features (N, 3): 1, score, lead; whether the best passage is right (N,)): all questions asked both ways."""
    inputs, labels = [], []
    for key in ("whole", "without"):
        best, score, lead = leads(data[key][chosen] @ weights.numpy())
        inputs.append(np.stack([np.ones_like(score), score, lead], 1))
        right = best == data["place"][chosen] if key == "whole" else np.zeros(len(best), bool)
        labels.append(right)
    return np.concatenate(inputs).astype(np.float32), np.concatenate(labels)


def fit_calibration(inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> torch.Tensor:
    """Logistic regression: (intercept, slope of the score, slope of the lead)."""
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels.astype(np.float32))
    return minimise(lambda w: torch.nn.functional.binary_cross_entropy_with_logits(x @ w, y), x.shape[1])


def report(probability: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    """Print how well probabilities meet frequencies, and what each threshold costs."""
    print("\nheld-out calibration: probability of the best passage against how often it is right")
    for low in np.arange(0, 1, 0.1):
        inside = (probability >= low) & (probability < low + 0.1 + 1e-9)
        if inside.any():
            mean, share = probability[inside].mean(), labels[inside].mean()
            print(f"  {low:.1f}–{low + 0.1:.1f}   n={inside.sum():<5} said {mean:.2f}   right {share:.2f}")
    half = len(labels) // 2
    print(f"Brier score {np.mean((probability - labels) ** 2):.3f}")
    print("threshold   answered and right   answered, passage absent")
    for threshold in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5):
        kept = probability >= threshold
        answered = (kept & labels)[:half].sum() / max(labels[:half].sum(), 1)
        print(f"{threshold:>9}{100 * answered:>20.1f} %{100 * kept[half:].mean():>23.1f} %")


def by_halves(parts: list[Any]) -> np.ndarray[Any, Any]:
    """The first halves of all parts, then the second halves."""
    return np.concatenate([part[: len(part) // 2] for part in parts] + [part[len(part) // 2 :] for part in parts])


def main() -> None:
    """Fit, test, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    collection = Collection(options.data, titles=True)
    data = gather(collection)
    folds = data["article"] % FOLDS
    ranks, probabilities, labels = [], [], []
    for fold in range(FOLDS):
        train, test = folds != fold, folds == fold
        weights = fit_ranking(data, train)
        scores = data["whole"][test] @ weights.numpy()
        place = data["place"][test]
        own = np.where(place >= 0, np.take_along_axis(scores, np.maximum(place, 0)[:, None], 1)[:, 0], -np.inf)
        ranks.append(np.where(place >= 0, (scores > own[:, None]).sum(1) + 1, 10_000))
        calibration = fit_calibration(*calibration_set(data, train, weights))
        inputs, truth = calibration_set(data, test, weights)
        probabilities.append(1 / (1 + np.exp(-inputs @ calibration.numpy())))
        labels.append(truth)
    rank = np.concatenate(ranks)
    mrr = np.where(rank <= 10, 1 / rank, 0).mean()
    print(f"held-out reranking: MRR@10 {100 * mrr:.1f}, recall@1 {100 * (rank == 1).mean():.1f}")
    # Asked of the whole first, then without: the report tells the two apart by halves.
    report(by_halves(probabilities), by_halves(labels))
    everything = np.ones(len(folds), bool)
    weights = fit_ranking(data, everything)
    calibration = fit_calibration(*calibration_set(data, everything, weights))
    print(f"\nWEIGHTS = ({', '.join(f'{float(w):.2f}' for w in weights)})")
    print(f"CALIBRATION = ({', '.join(f'{float(w):.2f}' for w in calibration)})")


if __name__ == "__main__":
    main()
