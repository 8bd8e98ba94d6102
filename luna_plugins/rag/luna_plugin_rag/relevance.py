"""How well a passage answers a question: the reranker `alignment`, and what its scores mean as probabilities.

A retriever counts which stems a passage shares with the question. Stems alone lose what tells passages on the same
matter apart: the very forms of the words, their order, and what is left of a word that was spelt wrongly. All features
lie in 0 to 1:

    lexical    BM25 score relative to the best of the query
    fuzzy      character TF-IDF cosine relative to the best of the query; where a knowledge base has no such retriever,
               or no BM25, the larger of what its other retrievers give, relative to their best
    covered    share of the question's IDF mass that passage, title and headings hold, by stems
    words      BM25 of the words as they stand, stop words with a small weight, relative to the best candidate
    phrase     share of the question's pairs of neighbouring words that are neighbours in the passage too
    letters    share of the runs of four letters of the question's words that the best sentence holds, each weighed as
               its word
    names      share of the question's capitalised words, but for the first, that the passage holds

The score is their weighted sum. The weights are a listwise logistic regression on questions whose passage is known. The
probability that a passage answers is a logistic regression on the score, its lead over the best other candidate, the
number of the question's terms, and whether the kind of thing that it asks for (a number, a date, a name, a reason) is
missing around the best sentence. It is fitted on questions with and without their passage, in collections from eleven
passages of one article to all of them. `benchmarks/knowledge/fit_relevance.py` fits both, checks them on articles that
were held out, and prints these very constants.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from luna_kernel.chat.extract import kind_asked
from luna_kernel.contracts.retrievers import Candidate, Reranker
from luna_kernel.data.portuguese import STOP_WORDS, fold, stem, terms, words
from luna_kernel.data.sentences import sentences

FEATURES = ("lexical", "fuzzy", "covered", "words", "phrase", "letters", "names")
WEIGHTS = (2.19, 2.12, 2.35, 1.62, 2.65, 3.00, 1.37)
CALIBRATION = (-8.37, 0.59, 0.51, 0.73, -0.69)
"""Intercept; slopes of the score, the lead, the logarithm of 1 + the number of terms, the kind that is missing."""
MAX_LEAD = 3.0
"""A longer lead says no more; it also bounds what a collection of one passage can claim."""

_STOP_WEIGHT = 0.1
"""A stop word's share of the weight of the question's rarest word."""
_RUN = 4
_K1, _B = 1.5, 0.75
_NAME = re.compile(r"(?<=\W)[^\W\d_a-zà-öø-ÿ]\w*")


class AlignmentReranker(Reranker):
    """Orders passages by how closely their sentences follow the question."""

    def score(self, query: str, candidates: Sequence[Candidate], weights: Mapping[str, float]) -> list[float]:
        """The weighted sum of the features of each candidate."""
        rows = Question(query, weights).features(candidates)
        return [sum(weight * value for weight, value in zip(WEIGHTS, row, strict=True)) for row in rows]

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
    """A question's words with their weights, to be held against passages.

    Args:
        query: as it was typed.
        weights: the IDF of its stems; what is missing weighs as much as the rarest.
    """

    def __init__(self, query: str, weights: Mapping[str, float]) -> None:
        self.query = query
        self._is_kind = kind_asked(query)
        rarest = max(weights.values(), default=1.0)
        self.weights = {term: weights.get(term, rarest) for term in terms(query)}
        """By stem, stop words left out unless there is nothing else."""
        in_order = words(query)
        self.words = {
            word: _STOP_WEIGHT * rarest if word in STOP_WORDS else weights.get(stem(word), rarest) for word in in_order
        }
        self.pairs = {
            f" {first} {second} ": min(self.words[first], self.words[second])
            for first, second in itertools.pairwise(in_order)
        }
        self.runs: dict[str, float] = {}
        for word, weight in self.words.items():
            for run in _runs(f" {word} "):
                self.runs[run] = max(weight, self.runs.get(run, 0.0))
        self.names = {
            word: self.words[word]
            for name in _NAME.findall(query)
            if (word := fold(name)) in self.words and word not in STOP_WORDS
        }

    def share(self, held: AbstractSet[str]) -> float:
        """The share of the mass of the question's stems that `held` has."""
        return _share(self.weights, held)

    def features(self, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        """The features of some passages, each in the order of `FEATURES`."""
        passages = [_passage(candidate.title, candidate.heading, candidate.text) for candidate in candidates]
        rows = []
        for candidate, passage, bm25 in zip(candidates, passages, self._bm25(passages), strict=True):
            # The constants are those of both retrievers together; 0 for one that was not asked would call all unlikely.
            instead = max(candidate.scores.values(), default=0.0)
            rows.append((
                candidate.scores.get("bm25", instead),
                candidate.scores.get("tfidf", instead),
                self.share(passage.stems),
                bm25,
                _share(self.pairs, {pair for pair in self.pairs if pair in passage.text}),
                self._letters(passage),
                _share(self.names, passage.counts),
            ))  # fmt: skip
        return rows

    def _bm25(self, passages: Sequence[_Passage]) -> list[float]:
        """BM25 of the words as they stand, relative to the best; lengths relative to the mean of these passages."""
        sizes = [passage.counts.total() for passage in passages]
        mean = sum(sizes) / max(len(sizes), 1) or 1.0
        scores = []
        for passage, size in zip(passages, sizes, strict=True):
            slow = _K1 * (1 - _B + _B * size / mean)
            counts = ((weight, passage.counts[word]) for word, weight in self.words.items())
            scores.append(sum(weight * count * (_K1 + 1) / (count + slow) for weight, count in counts if count))
        best = max(scores, default=0.0) or 1.0
        return [score / best for score in scores]

    def _letters(self, passage: _Passage) -> float:
        """The share of the question's runs of letters that the best sentence holds."""
        held = ((run for run in self.runs if run in text) for text in passage.sentences)
        return max((_share(self.runs, sentence) for sentence in held), default=0.0)

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


@dataclass(frozen=True)
class _Passage:
    """A candidate's words."""

    text: str
    """Title, headings and text: folded words, each between blanks."""
    counts: Counter[str]
    """How often each word is there."""
    stems: frozenset[str]
    """As `terms` gives them."""
    sentences: list[str]
    """Each sentence of the text: its folded words, each between blanks."""


@functools.lru_cache(maxsize=1024)
def _passage(title: str, heading: str, text: str) -> _Passage:
    """A candidate's words; title and headings count as words, not as sentences."""
    found = [words(text[start:end]) for start, end in sentences(text)]
    everything = [*words(title), *words(heading), *(word for one in found for word in one)]
    counts = Counter(everything)
    stems = frozenset(map(stem, counts.keys() - STOP_WORDS)) or frozenset(map(stem, counts))
    return _Passage(_joined(everything), counts, stems, [_joined(one) for one in found])


def _joined(found: Sequence[str]) -> str:
    return f" {' '.join(found)} "


def _runs(text: str) -> set[str]:
    """Runs of letters; a shorter text is one itself."""
    return {text[place : place + _RUN] for place in range(max(1, len(text) - _RUN + 1))}


def _share(weights: Mapping[str, float], held: Iterable[str]) -> float:
    """The share of the weights that `held` has; 0 where there are none."""
    return sum(weights[one] for one in held if one in weights) / (sum(weights.values()) or 1.0)
