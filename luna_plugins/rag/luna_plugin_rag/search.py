"""From a question to passages: every retriever's hits, their fusion, the reranker, and what is relevant enough."""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from luna_kernel.base.errors import IntegrityError
from luna_kernel.contracts.chat import Passage
from luna_kernel.contracts.knowledge import KnowledgeStore, StoredChunk
from luna_kernel.contracts.retrievers import Candidate, Hit, Reranker, Retriever
from luna_kernel.data.compiled import held_back
from luna_kernel.data.portuguese import terms
from luna_kernel.data.sentences import trimmed

from .calibration import Calibration, calibrate, confidence, shifted
from .config import KnowledgeConfig
from .filters import Condition, check_names
from .fusion import Fused, diverse, fuse
from .indexes import Index, Indexes
from .spelling import corrected

SHOWN = 4
"""So many passages count for the question whether anything was found; the calibration was fitted on as many."""
_CALIBRATION = "calibration"
_BESIDE = 0.25
"""A further passage is given if its relevance is at least this share of the threshold."""


@dataclass
class Found:
    """What a search gave."""

    passages: list[Passage] = field(default_factory=list)
    """Best first, numbered from 1; empty where nothing is relevant enough."""
    confidence: float = 0.0
    """Probability that one of the best passages answers, also where it is below the threshold."""
    candidates: int = 0
    """How many chunks the retrievers found."""


class Searcher:
    """Searches one knowledge base."""

    def __init__(
        self, store: KnowledgeStore, indexes: Indexes, reranker: Reranker | None, config: KnowledgeConfig
    ) -> None:
        self._store = store
        self._indexes = indexes
        self._reranker = reranker
        self._config = config
        self._filtered: tuple[tuple[int, tuple[Condition, ...]], set[int]] | None = None
        self._shifted: tuple[int, float] | None = None
        """What is added to log-odds, and for which state of the documents."""
        self._names: tuple[int, set[str]] | None = None
        """What is known of passages, by name, and for which state of the documents."""

    def search(self, query: str, k: int, *, threshold: float, filters: Sequence[Condition] = ()) -> Found:
        """See `KnowledgeBase.search`."""
        try:
            return self._search(query, k, threshold, filters)
        except IntegrityError as error:  # a block of an index, compared when it was first needed
            self._indexes.doubt(error)
        return self._search(query, k, threshold, filters)

    def _search(self, query: str, k: int, threshold: float, filters: Sequence[Condition]) -> Found:
        indexes = self._indexes.current()
        if self._config.spelling:
            query = corrected(query, self.frequencies)
        allowed = self._allowed(filters) if filters else None
        ranked, count = self._ranked(indexes, query, allowed, self._shift())
        if not ranked:
            return Found()
        sure = confidence([relevance for _, relevance in ranked[:SHOWN]])
        if sure < threshold:
            return Found(confidence=sure, candidates=count)
        kept = [item for item in ranked if item[1] >= min(ranked[0][1], _BESIDE * threshold)]
        if self._config.diversity and len(kept) > 1:
            held = [set(terms(chunk.text)) for chunk, _ in kept]
            kept = [kept[i] for i in diverse([value for _, value in kept], held, k, self._config.diversity)]
        kept = kept[:k]
        passages = [_passage(number, chunk, relevance) for number, (chunk, relevance) in enumerate(kept, 1)]
        return Found(passages, sure, count)

    def _ranked(
        self, indexes: Sequence[Index], query: str, allowed: Collection[int] | None, shift: float
    ) -> tuple[list[tuple[StoredChunk, float]], int]:
        """(chunk, relevance), best first, and how many chunks were found."""
        hits = {index.name: self._hits(index.retriever, query, allowed) for index in indexes}
        fused = fuse(hits, self._config.fusion_weights, by=self._config.fusion)
        ranked = self._rank(query, fused[: self._config.candidates])
        return [(chunk, shifted(value, shift)) for chunk, value in ranked] if shift else ranked, len(fused)

    # --- how sure it must be -------------------------------------------------------------------------------------

    def calibration(self) -> Calibration | None:
        """What was found out when the knowledge base was filled, where it was made of what searches now."""
        found = Calibration.from_json(self._store.meta(_CALIBRATION))
        return found if found is not None and found.made_of == self._made_of() else None

    def _shift(self) -> float:
        generation = self._store.generation
        if self._shifted is None or self._shifted[0] != generation:
            found = self.calibration()
            self._shifted = (generation, 0.0 if found is None else found.shift)
        return self._shifted[1]

    def _made_of(self) -> str:
        config = self._config
        settings = [config.reranker, config.candidates, config.fusion, config.fusion_weights, config.false_answers]
        return json.dumps([self._indexes.made_of(), *settings], sort_keys=True)

    def calibrate(self, progress: Callable[[int, int, str], None] | None = None) -> None:
        """Find out how sure an answer must be, where that is not known; only whoever holds the lock may."""
        allowed, ids = self._config.false_answers, self._store.chunk_ids()
        if self._reranker is None or allowed is None:
            return
        known = self.calibration()
        if known is not None and known.holds(ids, known.made_of):
            return
        indexes = self._indexes.current()

        def ask(question: str, found: Collection[int]) -> list[tuple[str, float]]:
            return [(chunk.text, value) for chunk, value in self._ranked(indexes, question, found, 0.0)[0][:SHOWN]]

        with held_back():
            made = calibrate(
                {chunk.id: chunk.source for chunk in self._store.chunks(sorted(ids))},
                lambda ids: ((chunk.id, chunk.text) for chunk in self._store.chunks(ids)),
                ask,
                allowed=allowed,
                made_of=self._made_of(),
                progress=lambda done, total: progress and progress(done, total, ""),
            )
        self._store.set_meta(_CALIBRATION, made.to_json())
        self._shifted = None

    # --- parts of a search ---------------------------------------------------------------------------------------

    def check(self, filters: Sequence[Condition]) -> None:
        """See `KnowledgeBase.check_filters`."""
        if filters:
            generation = self._store.generation
            if self._names is None or self._names[0] != generation:
                self._names = (generation, self._store.metadata_names())
            check_names(filters, self._names[1])

    def _allowed(self, filters: Sequence[Condition]) -> set[int]:
        """Ids of the chunks that meet all conditions, remembered as long as the documents stay as they are."""
        state = (self._store.generation, tuple(filters))
        if self._filtered is None or self._filtered[0] != state:
            ids = self._store.chunks_that(lambda chunk: all(condition.holds(chunk) for condition in filters))
            self._filtered = (state, ids)
        return self._filtered[1]

    def _hits(self, retriever: Retriever, query: str, allowed: Collection[int] | None) -> list[Hit]:
        """A retriever's best hits among the allowed ones: ever more are asked for until there are enough or no more."""
        wanted = self._config.candidates
        if allowed is None:
            return retriever.search(query, wanted)
        if not allowed:
            return []
        asked = wanted
        while True:
            hits = retriever.search(query, asked)
            found = [hit for hit in hits if hit.chunk_id in allowed]
            if len(found) >= min(wanted, len(allowed)) or len(hits) < asked:
                return found[:wanted]
            asked *= 8

    def _rank(self, query: str, fused: list[Fused]) -> list[tuple[StoredChunk, float]]:
        """(chunk, relevance), best first. Chunks that another process removed meanwhile are left out."""
        chunks = {chunk.id: chunk for chunk in self._store.chunks([item.chunk_id for item in fused])}
        fused = [item for item in fused if item.chunk_id in chunks]
        if self._reranker is None:
            return [(chunks[item.chunk_id], 1.0) for item in fused]
        candidates = [_candidate(chunks[item.chunk_id], item) for item in fused]
        scores = self._reranker.score(query, candidates, self._weights(query))
        order = sorted(range(len(fused)), key=lambda place: -scores[place])
        best_first = [candidates[place] for place in order]
        relevance = self._reranker.relevance(query, best_first, [scores[place] for place in order])
        return [(chunks[fused[place].chunk_id], value) for place, value in zip(order, relevance, strict=True)]

    def frequencies(self, terms: Sequence[str]) -> list[int]:
        """In how many chunks each of some terms is; empty where no retriever knows."""
        for index in self._indexes.current():
            found = index.retriever.frequencies(terms)
            if found:
                return found
        return []

    def _weights(self, query: str) -> dict[str, float]:
        for index in self._indexes.current():
            weights = index.retriever.term_weights(query)
            if weights:
                return weights
        return {}


def _candidate(chunk: StoredChunk, item: Fused) -> Candidate:
    return Candidate(chunk.id, chunk.text, chunk.title, chunk.heading, item.scores)


def _passage(number: int, chunk: StoredChunk, relevance: float) -> Passage:
    """A chunk as a passage: white space at its ends left out, offsets and line with it."""
    start, end = trimmed(chunk.text, (0, len(chunk.text)))
    fixed = "line" in chunk.metadata
    metadata = dict(chunk.metadata)
    pages = metadata.pop("page_starts", [])
    page = bisect.bisect_right(pages, chunk.start + start)
    return Passage(
        number=number,
        source=chunk.source,
        title=chunk.title,
        heading=chunk.heading,
        text=chunk.text[start:end],
        start=chunk.start + start,
        end=chunk.start + end,
        score=relevance,
        line=chunk.line if fixed else chunk.line + chunk.text.count("\n", 0, start),
        page=page,
        page_starts=tuple(place for place in pages[page:] if place < chunk.start + end),
        metadata={
            **{k: v for k, v in chunk.metadata.items() if k != "page_starts"},
            "chunk": chunk.id,
            "document": chunk.document_id,
        },
    )
