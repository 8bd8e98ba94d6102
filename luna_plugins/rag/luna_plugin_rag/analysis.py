"""What a knowledge base covers and how well it is found: `luna kb analyze`."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of
from luna_kernel.contracts.knowledge import StoredChunk
from luna_kernel.data.portuguese import STOP_WORDS, fold, terms, words
from luna_kernel.data.sentences import sentences

from .duplicates import Group, find_duplicates
from .knowledge_base import KnowledgeBase
from .topics import Topic, find_topics

t = catalogue(__package__)

DEPTH = 10
_LEAST_WORDS = 5
TOGETHER = "all"
"""The row of all retrievers together, with the reranker."""


@dataclass(frozen=True)
class Question:
    """A question of reference."""

    text: str
    quote: str = ""
    """Words that a passage which answers holds; empty where that is not known."""
    answerable: bool = True
    """False: the documents are not meant to answer it."""


@dataclass(frozen=True)
class Gap:
    """A question that no passage answers well enough."""

    question: str
    confidence: float
    unknown: list[str]
    """Words of the question that no chunk has."""
    nearest: str
    """File of the best passage, though it is below the threshold; empty where nothing was found at all."""


@dataclass(frozen=True)
class Recall:
    """How often the right chunk is among the first; shares, 0 to 1."""

    retriever: str
    asked: str
    """`sentence`: a sentence of the chunk; `half`: every second of its words; `question`: a question with its quote."""
    count: int
    at_1: float
    at_5: float
    at_10: float
    mrr: float


@dataclass
class Analysis:
    """All of it."""

    folder: str
    chunks: int
    lengths: list[int]
    """Characters of each chunk."""
    topics: list[Topic] = field(default_factory=list)
    questions: int | None = None
    """How many were asked; None: none were given."""
    threshold: float = 0.0
    gaps: list[Gap] = field(default_factory=list)
    answered_foreign: list[str] = field(default_factory=list)
    """Questions that the documents are not meant to answer, and for which passages were found."""
    recalls: list[Recall] = field(default_factory=list)
    duplicates: list[Group] = field(default_factory=list)
    places: dict[int, str] = field(default_factory=dict)
    """Where the chunks of `duplicates` are: `file: start–end`."""
    repeated: float = 0.0
    """Share of the chunks that could go, all but one of each group."""

    def to_json(self) -> dict[str, Any]:
        """The analysis as `--json` prints it."""
        whole = asdict(self)
        whole.pop("lengths")
        whole["places"] = {str(key): value for key, value in self.places.items()}
        return whole


def analyse(
    knowledge: KnowledgeBase,
    *,
    questions: Sequence[Question] | None = None,
    topics: int | None = None,
    sample: int = 200,
    least: float = 0.8,
    progress: Callable[[], object] = lambda: None,
) -> Analysis:
    """Look at a knowledge base from four sides: topics, duplicates, self-retrieval, questions.

    Args:
        knowledge: an open knowledge base.
        questions: questions of reference.
        topics: how many topics; see `find_topics`.
        sample: chunks of which a sentence is looked for, at most.
        least: Jaccard index from which chunks are near duplicates.
        progress: called four times.
    """
    ids = sorted(knowledge.store.chunk_ids())
    chunks = [chunk for chunk in knowledge.store.chunks(ids) if chunk.text.strip()]
    ids, texts = [chunk.id for chunk in chunks], [chunk.text for chunk in chunks]
    found = Analysis(str(knowledge.folder), len(chunks), [len(text) for text in texts])
    found.topics = find_topics(ids, texts, [chunk.source for chunk in chunks], topics)
    progress()
    found.duplicates = find_duplicates(ids, texts, least)
    by_id = {chunk.id: chunk for chunk in chunks}
    doubled = [by_id[number] for group in found.duplicates for number in group.chunks]
    found.places = {chunk.id: f"{chunk.source}: {chunk.start}–{chunk.end}" for chunk in doubled}
    found.repeated = (len(doubled) - len(found.duplicates)) / max(len(chunks), 1)
    progress()
    found.recalls = self_retrieval(knowledge, chunks, sample)
    progress()
    if questions is not None:
        _ask(knowledge, questions, found)
    progress()
    return found


def self_retrieval(knowledge: KnowledgeBase, chunks: Sequence[StoredChunk], sample: int) -> list[Recall]:
    """Whether a sentence of a chunk, whole or with every second word only, finds a chunk that holds it.

    Chunks are drawn with a seed, and of each the sentence with the most content words is asked.
    """
    asked = []
    drawn = random.Random(0)  # noqa: S311  a sample, no secret
    for chunk in drawn.sample(list(chunks), min(sample, len(chunks))):
        spans = [chunk.text[start:end].strip() for start, end in sentences(chunk.text)]
        best = max(spans, key=lambda text: (len(_content(text)), text), default="")
        if len(_content(best)) >= _LEAST_WORDS:
            asked.append(best)
    if not asked:
        return []
    folded = {chunk.id: _plain(chunk.text) for chunk in chunks}
    rows = []
    for kind in ("sentence", "half"):
        queries = asked if kind == "sentence" else [" ".join(_content(text)[::2]) for text in asked]
        wanted = [_plain(text) for text in asked]
        for name in [*knowledge.retrievers(), TOGETHER]:
            places = []
            for query, text in zip(queries, wanted, strict=True):
                ranked = _ranked(knowledge, name, query)
                places.append(_place([text in folded.get(number, "") for number in ranked]))
            rows.append(_recall(name, kind, places))
    return rows


def _ask(knowledge: KnowledgeBase, questions: Sequence[Question], found: Analysis) -> None:
    found.questions, found.threshold = len(questions), knowledge.config.threshold
    places = []
    for question in questions:
        result = knowledge.search(question.text, DEPTH)
        if not question.answerable:
            if result.passages:
                found.answered_foreign.append(question.text)
            continue
        everything = result.passages or knowledge.search(question.text, DEPTH, threshold=0.0).passages
        if not result.passages:
            known = dict(zip(found_terms := terms(question.text), knowledge.frequencies(found_terms), strict=False))
            written = re.findall(r"[^\W_]+", question.text.lower())
            unknown = [word for word in written if not known.get(next(iter(terms(word)), ""), 1)]
            nearest = everything[0].source if everything else ""
            found.gaps.append(Gap(question.text, round(result.confidence, 4), unknown, nearest))
        if question.quote:
            quote = _plain(question.quote)
            right = [place for place, passage in enumerate(everything, 1) if quote in _plain(passage.text)]
            places.append(right[0] if right else 0)
    if places:
        found.recalls.append(_recall(TOGETHER, "question", places))


def _ranked(knowledge: KnowledgeBase, name: str, query: str) -> list[int]:
    if name != TOGETHER:
        return knowledge.ranking(name, query, DEPTH)
    found = knowledge.search(query, DEPTH, threshold=0.0).passages
    return [int(passage.metadata["chunk"]) for passage in found]


def _place(right: Sequence[bool]) -> int:
    """The place of the first that is right, from 1; 0 where none is."""
    return right.index(True) + 1 if True in right else 0


def _recall(name: str, asked: str, places: Sequence[int]) -> Recall:
    count = len(places)
    first, five, ten = (sum(1 <= place <= k for place in places) / count for k in (1, 5, DEPTH))
    return Recall(name, asked, count, first, five, ten, sum(1 / place for place in places if place) / count)


def _content(text: str) -> list[str]:
    return [word for word in words(text) if word not in STOP_WORDS]


def _plain(text: str) -> str:
    return " ".join(fold(text).split())


def read_questions(path: Path) -> list[Question]:
    """Questions of a file: one a line, or JSON lines `{"question": …, "quote": …}`; a `quote` that is null or empty
    says that the documents are not meant to answer.

    Raises:
        UsageError: the file cannot be read, or a line is not as it should be; the text names it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "UTF-8"
        text = t("questions.unreadable", path=path, reason=reason)
        raise UsageError(text, hint=t("questions.hint")) from error
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_question(line, f"{path}:{number}") if path.suffix == ".jsonl" else Question(line.strip()))
    if not found:
        raise UsageError(t("questions.none", path=path), hint=t("questions.hint"))
    return found


def _question(line: str, place: str) -> Question:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        item = None
    text = item.get("question") if isinstance(item, dict) else None
    quote = item.get("quote", "") if isinstance(item, dict) else None
    if not isinstance(text, str) or not text.strip() or not isinstance(quote, str | None):
        raise UsageError(t("questions.bad", place=place), hint=t("questions.hint"))
    return Question(text.strip(), quote or "", bool(quote) or "quote" not in item)
