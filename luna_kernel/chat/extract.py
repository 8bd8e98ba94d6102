"""Answers in the documents' own words: the sentences of the passages that answer a question best.

No model takes part. A sentence is worth the share of the question's words that it holds, each weighed by how rare it is
among the passages; words of its neighbours count less. A question that asks for a number, a date, a person or a place
favours sentences that hold one which the question does not already name. Everything is exact: a citation's offsets
point at the quoted characters in the document.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luna_kernel.contracts.chat import Citation, Passage
from luna_kernel.data.portuguese import STOP_WORDS, fold, stem, word_set, words
from luna_kernel.data.sentences import sentences, trimmed

# The three weights are from a listwise logistic regression over the sentences of passages that hold the answer, five
# folds over articles; `benchmarks/knowledge/extraction.py` measures what they give.
_CONTEXT = 0.12
"""What a word of the question in the sentence before, the heading or the title is worth, beside one in the sentence."""
_NEAR = 0.18
"""What it is worth that the question's neighbouring words are neighbours in the sentence too."""
_REACH = 3
"""Words at most this far apart are neighbours."""
_CUE = 0.35
"""What it is worth that a sentence holds the kind of thing that the question asks for."""
_RELEVANCE = 0.5
"""What the relevance of a whole passage is worth to its sentences."""
_REPEATED = 0.75
"""A second sentence is quoted too if it is worth this share of the first and says something else of the question."""
_LONGEST = 600
"""Characters of a quotation; a longer sentence is cut at a comma or a word."""


@dataclass(frozen=True)
class _Sentence:
    passage: Passage
    start: int
    """Offset in the passage's text."""
    end: int
    terms: frozenset[str]

    @property
    def text(self) -> str:
        return self.passage.text[self.start : self.end]


def best_sentences(query: str, passages: Sequence[Passage], *, limit: int = 2) -> list[Citation]:
    """The sentences that answer `query` best, best first.

    Args:
        query: the question.
        passages: what was found for it, best first.
        limit: how many sentences at most; further ones only if they add to the first.

    Returns:
        Citations with the number of their passage and offsets into its document: `text` is
        `document.text[start:end]`. Empty where no sentence shares a word with the question.
    """
    asked = _terms(query)
    found = [sentence for passage in passages for sentence in _sentences(passage)]
    if not asked or not found or limit < 1:
        return []
    weights = _rarity(asked, found)
    cue = kind_asked(query)
    scored = []
    for place, sentence in enumerate(found):
        before = found[place - 1].terms if place and found[place - 1].passage is sentence.passage else frozenset()
        worth = _worth(sentence, before, weights, asked)
        if worth > 0 and cue is not None and cue(sentence.text, query):
            worth += _CUE
        if worth > 0:
            scored.append((worth + _RELEVANCE * sentence.passage.score, -place, sentence))
    scored.sort(key=lambda item: item[:2], reverse=True)
    return [_citation(item) for item in _choose(scored, asked, limit)]


def _terms(text: str) -> list[str]:
    """Stems of the words that say something; all stems where none does."""
    found = words(text)
    return [stem(word) for word in found if word not in STOP_WORDS] or [stem(word) for word in found]


def _sentences(passage: Passage) -> list[_Sentence]:
    """A passage's sentences; a line of a list or a table counts as one, a heading belongs to what follows."""
    found = []
    headings = {passage.title, *passage.heading.split(" › ")}
    for start, end in sentences(passage.text):
        for line in re.finditer(r"[^\n]+(?:\n(?![ \t]*(?:[-*+•|#]|\d{1,3}[.)])\s?)[^\n]+)*", passage.text[start:end]):
            begin, stop = trimmed(passage.text, (start + line.start(), start + line.end()))
            begin += len(_MARKER.match(passage.text[begin:stop]).group())  # type: ignore[union-attr]
            text = passage.text[begin:stop]
            if text and not text.startswith("#") and text not in headings:
                found.append(_Sentence(passage, begin, stop, frozenset(_terms(text))))
    return found


_MARKER = re.compile(r"(?:[-*+•][ \t]+|>[ \t]*)*")


def _rarity(asked: Sequence[str], found: Sequence[_Sentence]) -> dict[str, float]:
    """IDF of the question's words over the sentences; a word in all of them tells nothing apart."""
    frequency = Counter(term for sentence in found for term in sentence.terms if term in asked)
    total = len(found)
    return {term: math.log(1 + (total - frequency[term] + 0.5) / (frequency[term] + 0.5)) for term in asked}


def _worth(sentence: _Sentence, before: frozenset[str], weights: dict[str, float], asked: Sequence[str]) -> float:
    """Share of the question's weight that the sentence holds, what stands around it counting less; 0 for none."""
    context = before | frozenset(_terms(f"{sentence.passage.title} {sentence.passage.heading}"))
    own = sum(weight for term, weight in weights.items() if term in sentence.terms)
    around = sum(weight for term, weight in weights.items() if term in context and term not in sentence.terms)
    total = sum(weights.values()) or 1.0
    if own == 0 and around < 0.5 * total:
        return 0.0
    pairs = {frozenset(pair) for pair in itertools.pairwise(asked) if pair[0] != pair[1]}
    told = _terms(sentence.text)
    near = {frozenset((a, b)) for place, a in enumerate(told) for b in told[place + 1 : place + 1 + _REACH]}
    return (own + _CONTEXT * around) / total + _NEAR * len(pairs & near) / max(len(pairs), 1)


def _choose(scored: Sequence[tuple[float, int, _Sentence]], asked: Sequence[str], limit: int) -> list[_Sentence]:
    """The best sentence, and further ones that are nearly as good and hold words of the question that it lacks."""
    chosen: list[_Sentence] = []
    covered: set[str] = set()
    for worth, _, sentence in scored:
        if chosen and worth < _REPEATED * scored[0][0]:
            break
        fresh = (sentence.terms & set(asked)) - covered
        if chosen and not fresh:
            continue
        chosen.append(sentence)
        covered |= sentence.terms & set(asked)
        if len(chosen) == limit:
            break
    return chosen


def _citation(sentence: _Sentence) -> Citation:
    passage, start, end = sentence.passage, sentence.start, sentence.end
    if end - start > _LONGEST:
        end = start + _cut(passage.text[start : start + _LONGEST])
    line = passage.line + passage.text.count("\n", 0, start) if passage.line else 0
    return Citation(
        number=passage.number,
        source=passage.source,
        title=passage.title,
        start=passage.start + start,
        end=passage.start + end,
        text=passage.text[start:end],
        line=line,
        page=passage.page_at(passage.start + start),
    )


def _cut(text: str) -> int:
    """Where to end a text that is too long: after a clause, else after a word."""
    clause = max(text.rfind(mark, len(text) // 2) for mark in ("; ", ", ", ": ", "\n"))
    return clause if clause > 0 else max(text.rfind(" "), 0) or len(text)


# --- what a question asks for ----------------------------------------------------------------------------------------

_NUMBER_WORDS = word_set("""
    um uma dois duas tres quatro cinco seis sete oito nove dez onze doze treze catorze quatorze quinze dezesseis
    dezessete dezoito dezenove vinte trinta quarenta cinquenta sessenta setenta oitenta noventa cem cento duzentos
    trezentos quinhentos mil milhao milhoes bilhao bilhoes metade terco dobro duzia duzias nenhum nenhuma varios
    """)
_TIME_WORDS = word_set("""
    janeiro fevereiro marco abril maio junho julho agosto setembro outubro novembro dezembro segunda terca quarta quinta
    sexta sabado sabados domingo domingos seculo horas manha tarde noite decada hoje ontem amanha
    """)
_NUMBER_QUESTION = re.compile(r"\bquant[oa]s?\b|\bque (?:percentual|numero|valor|preco|idade|altura|tamanho)\b")
_NUMBER_QUESTION_2 = re.compile(
    r"\bqual (?:e |foi |era )?[oa] (?:numero|valor|preco|taxa|custo|prazo|limite|potencia|idade)\b"
)
_TIME_QUESTION = re.compile(
    r"\bquando\b|\bqu(?:e|al) (?:foi o |e o )?(?:ano|dia|data|mes|seculo|decada|hora|horario|epoca)\b|\bque horas\b"
)
_YEAR_QUESTION = re.compile(r"\b(?:que|qual) (?:foi o |e o )?(?:ano|decada|seculo)\b")
_PERSON_QUESTION = re.compile(r"\bquem\b|\bde quem\b|\bqual (?:e |foi |era )?o nome\b")
_PLACE_QUESTION = re.compile(
    r"\b(?:a|de)?onde\b|\bem qu(?:e|al) (?:cidade|pais|lugar|local|estado|rua|bairro|regiao)\b"
)
_DURATION = re.compile(r"\bquanto tempo\b|\bde quanto tempo\b")
_WHY_QUESTION = re.compile(r"\bpor ?que\b|\bpor qual (?:motivo|razao)\b")
_REASON = re.compile(r"\b(?:porque|pois|devido|por causa|para que|ja que|uma vez que|visto que|gracas)\b")
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-ZÀ-Þ][\w'’-]+")


def kind_asked(query: str) -> Callable[[str, str], bool] | None:
    """A test (text, query) for the kind of thing that the question asks for: a number, a date, a name, a reason.

    None where it asks for no such kind.
    """
    asked = fold(query)
    if _YEAR_QUESTION.search(asked):
        return _holds_year
    if _TIME_QUESTION.search(asked):
        return _holds_time
    if _NUMBER_QUESTION.search(asked) or _NUMBER_QUESTION_2.search(asked) or _DURATION.search(asked):
        return _holds_number
    if _PERSON_QUESTION.search(asked) or _PLACE_QUESTION.search(asked):
        return _holds_name
    if _WHY_QUESTION.search(asked):
        return _holds_reason
    return None


def _new_words(text: str, query: str) -> set[str]:
    return set(words(text)) - set(words(query))


def _holds_number(text: str, query: str) -> bool:
    """A number, in digits or words, that the question does not name."""
    return any(word[0].isdigit() or word in _NUMBER_WORDS - {"um", "uma"} for word in _new_words(text, query))


def _holds_year(text: str, query: str) -> bool:
    """A year, a decade or a century that the question does not name."""
    return any((word.isdigit() and len(word) == 4) or word == "seculo" for word in _new_words(text, query))


def _holds_time(text: str, query: str) -> bool:
    """A year, a date, a time of day, a month or a weekday that the question does not name."""
    fresh = _new_words(text, query)
    return any(word in _TIME_WORDS or (word.isdigit() and len(word) in (2, 4)) for word in fresh)


def _holds_name(text: str, query: str) -> bool:
    """A capitalised word within the sentence that the question does not name."""
    known = {stem(word) for word in words(query)}
    return any(not ({stem(word) for word in words(name)} & known) for name in _NAME.findall(text))


def _holds_reason(text: str, query: str) -> bool:
    """A word that gives a reason."""
    return _REASON.search(fold(text)) is not None
