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
    names      share of the question's names that the passage holds: its capitalised words but for the first, and those
               that the candidates' sentences mostly write with a capital

The score is their weighted sum. The weights are a listwise logistic regression on questions whose passage is known. The
probability that a passage answers is a logistic regression on `EVIDENCE`, which is made of the score and of what the
question is about: its words without those that only ask (`luna_plugin_rag.asking`). A short question has little score
even where its passage has all that it says. It is fitted on questions, whole and cut short, with and without their
passage, in collections from eleven passages of one article to all of them. `benchmarks/knowledge/fit_relevance.py` fits
both, checks them on articles that were held out, and prints these very constants.
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
from luna_kernel.data.portuguese import STOP_WORDS, fold, stem, words
from luna_kernel.data.sentences import sentences

from .asking import LIGHT, kinds_named

FEATURES = ("lexical", "fuzzy", "covered", "words", "phrase", "letters", "names")
WEIGHTS = (2.14, 2.10, 2.50, 1.64, 2.66, 2.94, 1.29)
EVIDENCE = ("one", "score", "lead", "length", "missing", "there", "unknown", "few", "sentence")
"""What a probability is made of. Words are here those of what the question is about, by stems:

    one       1
    score     the score
    lead      of the score over the best other candidate's, at most `MAX_LEAD`
    length    ln(1 + how many stems the question has, light ones too)
    missing   whether the kind that is asked for (a number, a date, a name, a reason) is not beside the best sentence
    there     whether something of a kind that the question names (`preco`, `telefone`) is
    unknown   share of the words that no candidate holds
    few       ln(`MANY` / candidates)
    sentence  share of the words that the best sentence holds
"""
CALIBRATION = (-8.13, 0.34, 0.58, 1.34, -0.82, 0.69, -2.19, 0.50, 1.99)
MANY = 30
"""Candidates of a question in a knowledge base that is not small."""
MAX_LEAD = 3.0
"""A longer lead says no more; it also bounds what a collection of one passage can claim."""

_STOP_WEIGHT = 0.1
"""A stop word's share of the weight of the question's rarest word."""
_ASKING_WEIGHT = 0.5
"""The most that a light word, and one that names a kind, weigh beside it."""
_RUN = 4
_K1, _B = 1.5, 0.75
_NAME = re.compile(r"(?<=\W)[^\W\d_a-zà-öø-ÿ]\w*")
_NAME_INSIDE = re.compile(r"(?<=[\w,;] )[^\W\d_a-zà-öø-ÿ]\w+")
"""A capitalised word that begins neither sentence nor line."""
_COMMON = re.compile(r"\b[a-zà-öø-ÿ]\w*")


class AlignmentReranker(Reranker):
    """Orders passages by how closely their sentences follow the question."""

    def score(self, query: str, candidates: Sequence[Candidate], weights: Mapping[str, float]) -> list[float]:
        """The weighted sum of the features of each candidate."""
        rows = Question(query, weights).features(candidates)
        return [sum(weight * value for weight, value in zip(WEIGHTS, row, strict=True)) for row in rows]

    def relevance(self, query: str, candidates: Sequence[Candidate], scores: Sequence[float]) -> list[float]:
        """The probability that each passage answers the question; candidates and scores best first."""
        return [calibrate(evidence) for evidence in Question(query, {}).evidence(candidates, scores)]


def calibrate(evidence: Sequence[float]) -> float:
    """The probability for what `Question.evidence` gives of a passage."""
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
        self._named = kinds_named(query)
        in_order = words(query)
        self.words = {word: self._weight(word, weights, rarest) for word in in_order}
        said = [word for word in in_order if word not in STOP_WORDS] or in_order
        self.weights = {stem(word): self.words[word] for word in said}
        """By stem, stop words left out unless there is nothing else."""
        content = {stem(word) for word in said if word not in LIGHT} - self._named.keys()
        self.content = content | {_label(pattern) for pattern in self._named.values()} or set(self.weights)
        """Stems of what the question is about, and the kinds that it names."""
        self.pairs = {
            f" {first} {second} ": min(self.words[first], self.words[second])
            for first, second in itertools.pairwise(in_order)
        }
        self.runs: dict[str, float] = {}
        for word, weight in self.words.items():
            for run in _runs(f" {word} "):
                self.runs[run] = max(weight, self.runs.get(run, 0.0))
        self._capitalised = {fold(name) for name in _NAME.findall(query)}

    def _weight(self, word: str, weights: Mapping[str, float], rarest: float) -> float:
        if word in STOP_WORDS:
            return _STOP_WEIGHT * rarest
        asks = word in LIGHT or stem(word) in self._named
        return min(weights.get(stem(word), rarest), _ASKING_WEIGHT * rarest if asks else rarest)

    def held(self, text: str, stems: AbstractSet[str]) -> AbstractSet[str]:
        """`stems`, and those of the question's words that name a kind of which `text` has something."""
        return stems | {term for term, pattern in self._named.items() if pattern.search(text)} if self._named else stems

    def share(self, held: AbstractSet[str]) -> float:
        """The share of the mass of the question's stems that `held` has."""
        return _share(self.weights, held)

    def features(self, candidates: Sequence[Candidate]) -> list[tuple[float, ...]]:
        """The features of some passages, each in the order of `FEATURES`."""
        passages = [_passage(candidate.title, candidate.heading, candidate.text) for candidate in candidates]
        names = self._names(passages)
        rows = []
        for candidate, passage, bm25 in zip(candidates, passages, self._bm25(passages), strict=True):
            # The constants are those of both retrievers together; 0 for one that was not asked would call all unlikely.
            instead = max(candidate.scores.values(), default=0.0)
            rows.append((
                candidate.scores.get("bm25", instead),
                candidate.scores.get("tfidf", instead),
                self.share(self.held(candidate.text, passage.stems)),
                bm25,
                _share(self.pairs, {pair for pair in self.pairs if pair in passage.text}),
                self._letters(passage),
                _share(names, passage.counts),
            ))  # fmt: skip
        return rows

    def _names(self, passages: Sequence[_Passage]) -> dict[str, float]:
        """The question's names with their weights."""
        return {
            word: weight
            for word, weight in self.words.items()
            if word not in STOP_WORDS
            and (
                word in self._capitalised
                or sum(word in passage.names for passage in passages)
                > sum(word in passage.common for passage in passages)
            )
        }

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

    def evidence(self, candidates: Sequence[Candidate], scores: Sequence[float]) -> list[tuple[float, ...]]:
        """What `CALIBRATION` weighs of each passage, in the order of `EVIDENCE`; candidates and scores best first."""
        passages = [_passage(candidate.title, candidate.heading, candidate.text) for candidate in candidates]
        size = max(len(self.content), 1)
        everywhere = (self._about(c.text, passage.stems) for c, passage in zip(candidates, passages, strict=True))
        unknown = len(self.content.difference(*everywhere)) / size
        length = math.log(1 + len(self.weights))
        few = math.log(MANY / max(min(len(candidates), MANY), 1))
        rows = []
        for place, (candidate, passage, score) in enumerate(zip(candidates, passages, scores, strict=True)):
            parts = zip(passage.spans, passage.sentence_stems, strict=True)
            shares = [len(self._about(candidate.text[a:b], stems)) / size for (a, b), stems in parts]
            best = max(range(len(shares)), key=shares.__getitem__, default=0)
            missing, there = self._kinds(candidate.text, passage, best)
            lead = min(score - best_other(scores, place), MAX_LEAD)
            share = max(shares, default=0.0)
            rows.append((1.0, score, lead, length, missing, there, unknown, few, share))
        return rows

    def _about(self, text: str, stems: AbstractSet[str]) -> set[str]:
        """What of `content` a text holds; a kind by something of it, or by the word that names it."""
        kinds = {_label(pattern) for term, pattern in self._named.items() if term in stems or pattern.search(text)}
        return (self.content & stems) | (self.content & kinds)

    def _kinds(self, text: str, passage: _Passage, best: int) -> tuple[float, float]:
        """What `EVIDENCE` calls missing and there, of the best sentence and those beside it."""
        beside = [text[start:end] for start, end in passage.spans[max(0, best - 1) : best + 2]]
        missing = self._is_kind is not None and not any(self._is_kind(one, self.query) for one in beside)
        there = any(pattern.search(one) for pattern in self._named.values() for one in beside)
        return float(missing), float(there)


@dataclass(frozen=True)
class _Passage:
    """A candidate's words."""

    text: str
    """Title, headings and text: folded words, each between blanks."""
    counts: Counter[str]
    """How often each word is there."""
    stems: frozenset[str]
    """As `terms` gives them."""
    names: frozenset[str]
    """Folded words that are written with a capital inside a sentence."""
    common: frozenset[str]
    """Words that are written without one."""
    spans: list[tuple[int, int]]
    """Of the sentences in the text."""
    sentences: list[str]
    """Each sentence of the text: its folded words, each between blanks."""
    sentence_stems: list[frozenset[str]]
    """Each sentence's stems."""


@functools.lru_cache(maxsize=1024)
def _passage(title: str, heading: str, text: str) -> _Passage:
    """A candidate's words; title and headings count as words, not as sentences."""
    spans = list(sentences(text))
    found = [words(text[start:end]) for start, end in spans]
    everything = [*words(title), *words(heading), *(word for one in found for word in one)]
    counts = Counter(everything)
    return _Passage(
        _joined(everything),
        counts,
        _stems(counts.keys()),
        frozenset(fold(name) for name in _NAME_INSIDE.findall(text)),
        frozenset(fold(word) for word in _COMMON.findall(text)),
        spans,
        [_joined(one) for one in found],
        [_stems(set(one)) for one in found],
    )


def _label(pattern: re.Pattern[str]) -> str:
    """What stands for a kind among stems."""
    return f"/{pattern.pattern}/"


def _stems(found: AbstractSet[str]) -> frozenset[str]:
    """Their stems without stop words, unless there is nothing else."""
    return frozenset(map(stem, found - STOP_WORDS)) or frozenset(map(stem, found))


def _joined(found: Sequence[str]) -> str:
    return f" {' '.join(found)} "


def _runs(text: str) -> set[str]:
    """Runs of letters; a shorter text is one itself."""
    return {text[place : place + _RUN] for place in range(max(1, len(text) - _RUN + 1))}


def _share(weights: Mapping[str, float], held: Iterable[str]) -> float:
    """The share of the weights that `held` has; 0 where there are none."""
    return sum(weights[one] for one in held if one in weights) / (sum(weights.values()) or 1.0)
