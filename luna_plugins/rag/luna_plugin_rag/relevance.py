"""How well a passage answers a question: the reranker `alignment`, and what its scores mean as probabilities.

A retriever counts which words a passage shares with the question. An answer stands in a sentence or two, near the
question's words in the question's order; that is what these features measure. All lie in 0 to 1:

    lexical    BM25 score relative to the best of the query
    fuzzy      character TF-IDF cosine relative to the best of the query; where a knowledge base has no such retriever,
               or no BM25, the larger of what its other retrievers give, relative to their best
    covered    share of the question's IDF mass that passage, title and headings hold
    sentence   the same for the best single sentence
    window     the same for the best two neighbouring sentences
    near       share of the question's neighbouring pairs of terms that are neighbours in one sentence too

The score is their weighted sum. The weights are a listwise logistic regression on questions whose passage is known. The
probability that a passage answers is a logistic regression on the score, its lead over the best other candidate, the
number of the question's terms, and whether the kind of thing that it asks for (a number, a date, a name, a reason) is
missing around the best sentence. It is fitted on questions with and without their passage, in collections from eleven
passages of one article to all of them. `benchmarks/knowledge/fit_relevance.py` fits both, checks them on articles that
were held out, and prints these very constants.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from luna_kernel.chat.extract import kind_asked
from luna_kernel.contracts.retrievers import Candidate, Reranker
from luna_kernel.data.portuguese import terms
from luna_kernel.data.sentences import sentences

FEATURES = ("lexical", "fuzzy", "covered", "sentence", "window", "near")
WEIGHTS = (2.10, 3.54, 2.12, 2.13, 1.69, 1.79)
CALIBRATION = (-8.88, 0.61, 0.47, 1.13, -0.72)
"""Intercept; slopes of the score, the lead, the logarithm of 1 + the number of terms, the kind that is missing."""
MAX_LEAD = 3.0
"""A longer lead says no more; it also bounds what a collection of one passage can claim."""

_REACH = 3
"""Terms at most this far apart are neighbours."""


class AlignmentReranker(Reranker):
    """Orders passages by how closely their sentences follow the question."""

    def score(self, query: str, candidates: Sequence[Candidate], weights: Mapping[str, float]) -> list[float]:
        """The weighted sum of the features of each candidate."""
        question = Question(query, weights)
        return [
            sum(weight * value for weight, value in zip(WEIGHTS, question.features(item), strict=True))
            for item in candidates
        ]

    def relevance(self, query: str, candidates: Sequence[Candidate], scores: Sequence[float]) -> list[float]:
        """The probability that each passage answers the question; candidates and scores best first."""
        question = Question(query, {})
        return [
            calibrate(question.evidence(candidate, score, score - best_other(scores, place)))
            for place, (candidate, score) in enumerate(zip(candidates, scores, strict=True))
        ]


def calibrate(evidence: Sequence[float]) -> float:
    """The probability for what `Question.evidence` gives."""
    logit = sum(weight * value for weight, value in zip(CALIBRATION, evidence, strict=True))
    return 1 / (1 + math.exp(-logit))


def best_other(scores: Sequence[float], place: int) -> float:
    """The best score but that at `place`; where there is no other, one that it is ahead of by half of `MAX_LEAD`."""
    others = (score for other, score in enumerate(scores) if other != place)
    return max(others, default=scores[place] - MAX_LEAD / 2)


class Question:
    """A question's terms with their weights, to be held against passages."""

    def __init__(self, query: str, weights: Mapping[str, float]) -> None:
        self.query = query
        self.terms = terms(query)
        self._is_kind = kind_asked(query)
        rarest = max(weights.values(), default=1.0)
        self.weights = {term: weights.get(term, rarest) for term in self.terms}
        self.mass = sum(self.weights.values()) or 1.0
        self.pairs: dict[frozenset[str], float] = {}
        for first, second in _neighbours(self.terms):
            if first != second:
                self.pairs[frozenset((first, second))] = min(self.weights[first], self.weights[second])
        self.pair_mass = sum(self.pairs.values()) or 1.0

    def share(self, held: set[str]) -> float:
        """The share of the question's mass that `held` has."""
        return sum(self.weights[term] for term in held & self.weights.keys()) / self.mass

    def features(self, candidate: Candidate) -> tuple[float, ...]:
        """The features of a passage, in the order of `FEATURES`."""
        text = candidate.text
        found = [terms(text[start:end]) for start, end in sentences(text)]
        held = [self.weights.keys() & set(sentence) for sentence in found]
        everything = set().union(*held) | (self.weights.keys() & set(terms(f"{candidate.title} {candidate.heading}")))
        best = max(map(self.share, held), default=0.0)
        window = max((self.share(one | two) for one, two in itertools.pairwise(held)), default=best)
        # The constants are those of both retrievers together; 0 for one that was not asked would call all unlikely.
        instead = max(candidate.scores.values(), default=0.0)
        return (
            candidate.scores.get("bm25", instead),
            candidate.scores.get("tfidf", instead),
            self.share(everything),
            best,
            max(best, window),
            max(map(self._near, found), default=0.0),
        )

    def evidence(self, candidate: Candidate, score: float, lead: float) -> tuple[float, ...]:
        """What `CALIBRATION` weighs: 1, the score, its lead, ln(1 + terms), whether the kind asked for is missing."""
        missing = self._is_kind is not None and not self._holds_kind(candidate.text)
        return (1.0, score, min(lead, MAX_LEAD), math.log(1 + len(self.weights)), float(missing))

    def _holds_kind(self, text: str) -> bool:
        """Whether the best sentence or one beside it holds the kind of thing that the question asks for."""
        assert self._is_kind is not None
        found = [text[start:end] for start, end in sentences(text)]
        if not found:
            return False
        best = max(range(len(found)), key=lambda place: self.share(self.weights.keys() & set(terms(found[place]))))
        return any(self._is_kind(sentence, self.query) for sentence in found[max(0, best - 1) : best + 2])

    def _near(self, sentence: Sequence[str]) -> float:
        """The share of the question's neighbouring pairs that are neighbours in this sentence."""
        if not self.pairs:
            return 0.0
        # Only pairs of the question's terms matter: the rest of the sentence is passed over quickly.
        near = {frozenset(pair) for pair in _neighbours(sentence, self.weights)}
        return sum(mass for pair, mass in self.pairs.items() if pair in near) / self.pair_mass


def _neighbours(sequence: Sequence[str], only: Mapping[str, float] | None = None) -> list[tuple[str, str]]:
    """Pairs at most `_REACH` apart, in order; of terms in `only` if given."""
    return [
        (term, other)
        for place, term in enumerate(sequence)
        if only is None or term in only
        for other in sequence[place + 1 : place + 1 + _REACH]
        if only is None or other in only
    ]
