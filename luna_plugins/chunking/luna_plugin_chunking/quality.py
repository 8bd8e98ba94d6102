"""How good chunks are, in measures that a change of the strategy moves, and changes that were tried and help."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.data.sentences import sentences

from .cohesion import cosine, density, vectors, weights_of


@dataclass(frozen=True)
class Quality:
    """A report; shares and similarities are 0 to 1."""

    chunks: int
    smallest: int
    mean: float
    largest: int
    spread: float
    """Standard deviation of the sizes over their mean."""
    at_sentences: float
    """Share of the cuts that are ends of sentences."""
    at_paragraphs: float
    """Share of the cuts that are ends of paragraphs."""
    inside: float
    """Mean similarity of neighbouring sentences of one chunk."""
    across: float
    """Mean similarity of neighbouring sentences on both sides of a cut."""
    density: float
    """Mean share of a sentence's terms that are new."""

    def to_json(self) -> dict[str, Any]:
        """The report, rounded."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def quality(pairs: Sequence[tuple[Document, Sequence[Chunk]]]) -> Quality:
    """The report about chunks of documents."""
    sizes = [int(chunk.metadata.get("size", len(chunk.text))) for _, chunks in pairs for chunk in chunks]
    inside: list[float] = []
    across: list[float] = []
    dense: list[float] = []
    cuts = at_sentences = at_paragraphs = 0
    for document, chunks in pairs:
        text = document.text
        spans = list(sentences(text))
        ends = {end for _, end in spans}
        places = {chunk.end for chunk in chunks if chunk.end < len(text)}
        cuts += len(places)
        at_sentences += len(places & ends)
        at_paragraphs += sum(_ends_paragraph(text, place) for place in places)
        found = vectors(text, spans)
        weights = weights_of(found)
        dense += density(text, spans)
        for place, (_, end) in enumerate(spans[:-1]):
            score = cosine(found[place], found[place + 1], weights)
            (across if end in places else inside).append(score)
    mean = statistics.fmean(sizes) if sizes else 0.0
    return Quality(
        chunks=len(sizes),
        smallest=min(sizes, default=0),
        mean=mean,
        largest=max(sizes, default=0),
        spread=statistics.pstdev(sizes) / mean if mean else 0.0,
        at_sentences=at_sentences / cuts if cuts else 1.0,
        at_paragraphs=at_paragraphs / cuts if cuts else 1.0,
        inside=_mean(inside),
        across=_mean(across),
        density=_mean(dense),
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _ends_paragraph(text: str, place: int) -> bool:
    start = place
    while start > 0 and text[start - 1].isspace():
        start -= 1
    return text.count("\n", start, place) > 1


@dataclass(frozen=True)
class Suggestion:
    """A change of the settings that was tried on these documents and moved `measure` from `before` to `after`."""

    changes: dict[str, Any]
    """Options as the verb has them: `{"strategy": "sentence"}`."""
    measure: str
    before: float
    after: float


def candidates(report: Quality, strategy: str, settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(measure to improve, changes) that are worth a try for what the report says."""
    found: list[tuple[str, dict[str, Any]]] = []
    if report.at_sentences < 0.95:
        found.append(("at_sentences", {"strategy": "sentence", "preserve_sentences": True}))
    if strategy != "semantic" and report.inside - report.across < 0.1:
        found.append(("separation", {"strategy": "semantic", "preserve_sentences": True}))
    if report.spread > 0.4 and settings["min_size"] < settings["max_size"] // 2:
        found.append(("spread", {"min_size": settings["max_size"] // 2, "strategy": "semantic"}))
    return found


def helps(measure: str, before: Quality, after: Quality) -> Suggestion | None:
    """What a tried change did to `measure`, if that is better by a twentieth at least."""
    old, new = (
        item.inside - item.across if measure == "separation" else getattr(item, measure) for item in (before, after)
    )
    gain = old - new if measure == "spread" else new - old
    return Suggestion({}, measure, round(old, 4), round(new, 4)) if gain > max(0.005, 0.05 * abs(old)) else None
