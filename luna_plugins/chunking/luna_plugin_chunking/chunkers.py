"""The strategies: how sentences are put together into chunks. See `config.ChunkConfig` for what limits them."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.retrievers import Chunker
from luna_kernel.data.blocks import SEPARATOR, Block, blocks
from luna_kernel.data.sentences import Boundaries, Span, sentences

from .cohesion import best_cuts, density, gaps
from .config import ChunkConfig, OverlappingConfig, SemanticConfig
from .measure import Measure, measure_of
from .units import Unit, checked, head, size_of, units_of

_PARAGRAPH_END = re.compile(r"\n[ \t\r\f\v]*\n\s*\Z")
_BLANK_LINES = re.compile(r"\n[ \t\r\f\v]*\n\s*")

Group = list[Unit]


class _SizedChunker(Chunker):
    """What the strategies share: units within the limit, groups of them, exact chunks."""

    config: ChunkConfig

    def __init__(self, config: ChunkConfig | None = None) -> None:
        super().__init__(config or self._default())
        self._measure: Measure = measure_of(self.config)

    @staticmethod
    def _default() -> ChunkConfig:
        return ChunkConfig()

    def _units(self, text: str, start: int, end: int) -> list[Unit]:
        if self.config.preserve_sentences:
            spans = [(start + a, start + b) for a, b in sentences(text[start:end])]
        else:
            spans = [(start + m.start(), start + m.end()) for m in re.finditer(r"\s*\S{1,60}\s*|\s+", text[start:end])]
        return units_of(text, spans, self._measure, self.config.max_size)

    def _chunks(self, text: str, groups: Iterable[Group], heading: str = "", **metadata: Any) -> list[Chunk]:
        found = []
        for group in checked(text, groups, self._measure, self.config.max_size):
            start, end = group[0].start, group[-1].end
            found.append(Chunk(text[start:end], start, end, heading, {"size": size_of(group), **metadata}))
        return found

    def _fill(self, text: str, units: Sequence[Unit], limit: int) -> Iterator[Group]:
        """Units put together up to `limit`; a chunk ends with a paragraph once it has `min_size`."""
        group: Group = []
        size = 0
        for unit in units:
            if group and size + unit.joint + unit.size > limit:
                kept = self._paragraph_end(text, group)
                yield group[:kept]
                group = group[kept:]
                size = size_of(group)
                if group and size + unit.joint + unit.size > limit:
                    yield group
                    group, size = [], 0
            size += unit.size + (unit.joint if group else 0)
            group.append(unit)
        if group:
            yield group

    def _paragraph_end(self, text: str, group: Group) -> int:
        """How many units of `group` to close: up to its last end of a paragraph beyond `min_size`, else all."""
        if self.config.preserve_paragraphs:
            size = size_of(group)
            for count in range(len(group), 0, -1):
                if size < max(1, self.config.min_size):
                    break
                if _PARAGRAPH_END.search(text, group[count - 1].start, group[count - 1].end):
                    return count
                size -= group[count - 1].size + group[count - 1].joint
        return len(group)


class _GroupingChunker(_SizedChunker):
    """A strategy that puts the units of a whole text into groups, whatever its sections."""

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order, `size` in their metadata; none for a text without content."""
        text = document.text
        if not text.strip():
            return []
        return self._chunks(text, self._group(text, self._units(text, 0, len(text))))

    @abstractmethod
    def _group(self, text: str, units: Sequence[Unit]) -> Iterable[Group]:
        """The units, in order, group by group."""


class SentenceChunker(_GroupingChunker):
    """Whole sentences up to the limit, and whole paragraphs where they allow it."""

    def chunk(self, document: Document) -> list[Chunk]:
        """See `_GroupingChunker`; by characters, sentences are looked for near the limits alone."""
        text = document.text
        if not (self.config.preserve_sentences and type(self._measure) is Measure and text.strip()):
            return super().chunk(document)
        return self._chunks(text, ([Unit(start, end, end - start)] for start, end in self._by_characters(text)))

    def _group(self, text: str, units: Sequence[Unit]) -> Iterable[Group]:
        return self._fill(text, units, self.config.max_size)

    def _by_characters(self, text: str) -> Iterator[Span]:
        """Spans of the chunks: up to the last paragraph that fits, else the last sentence, else the last word."""
        boundaries = Boundaries(text)
        start, least = 0, max(1, self.config.min_size)
        while len(text) - start > self.config.max_size:
            high = start + self.config.max_size
            end = start
            if self.config.preserve_paragraphs:
                for match in _BLANK_LINES.finditer(text, start + least - 1, high + 1):
                    if (
                        least <= match.end() - start <= self.config.max_size
                        and not text[start : match.start()].isspace()
                    ):
                        end = match.end()
            if end == start:
                end = boundaries.last(start, high)
            if end == start:
                end, _ = head(text, start, len(text), self._measure, self.config.max_size)
            yield start, end
            start = end
        if start < len(text):
            yield start, len(text)


class FixedChunker(_GroupingChunker):
    """Filled to the limit: cut in the middle of a sentence and, only if it must, of a word."""

    def chunk(self, document: Document) -> list[Chunk]:
        """See `_GroupingChunker`."""
        text = document.text
        return self._chunks(text, self._group(text, ())) if text.strip() else []

    def _group(self, text: str, units: Sequence[Unit]) -> Iterator[Group]:
        start = 0
        while start < len(text):
            end, size = head(text, start, len(text), self._measure, self.config.max_size, words=False)
            yield [Unit(start, end, size)]
            start = end


class AdaptiveChunker(_GroupingChunker):
    """A chunk's size follows its content: the more new words it brings, the smaller it is."""

    def _group(self, text: str, units: Sequence[Unit]) -> Iterator[Group]:
        least, most = self.config.min_size, self.config.max_size
        dense = density(text, [(unit.start, unit.end) for unit in units])
        group: Group = []
        size, weight = 0, 0.0
        for unit, share in zip(units, dense, strict=True):
            joined = size + unit.joint + unit.size
            target = most - (most - least) * (weight / size if size else 0.0)
            if group and (joined > most or (size >= least and joined > target)):
                yield group
                group, size, weight = [], 0, 0.0
            size += unit.size + (unit.joint if group else 0)
            weight += unit.size * share
            group.append(unit)
        if group:
            yield group


class SemanticChunker(_GroupingChunker):
    """Cut where the words before and after have least in common, between both limits."""

    config: SemanticConfig

    @staticmethod
    def _default() -> ChunkConfig:
        return SemanticConfig()

    def _group(self, text: str, units: Sequence[Unit]) -> Iterator[Group]:
        scores = gaps(text, [(unit.start, unit.end) for unit in units], self.config.window)
        sizes = [unit.size + unit.joint for unit in units]
        before = 0
        for cut in best_cuts(scores, sizes, self.config.min_size, self.config.max_size):
            yield list(units[before:cut])
            before = cut


class OverlappingChunker(_GroupingChunker):
    """As `sentence`, and each chunk begins with the last sentences of the one before."""

    config: OverlappingConfig

    @staticmethod
    def _default() -> ChunkConfig:
        return OverlappingConfig()

    def _group(self, text: str, units: Sequence[Unit]) -> Iterator[Group]:
        group: Group = []
        size, fresh = 0, False
        for unit in units:
            if group and size + unit.joint + unit.size > self.config.max_size:
                if fresh:
                    yield list(group)
                room = min(self.config.overlap, self.config.max_size - unit.joint - unit.size)
                keep = len(group)
                size = 0
                while keep > 1 and size + group[keep - 1].size + group[keep - 1].joint <= room:
                    keep -= 1
                    size += group[keep].size + group[keep].joint
                group = group[keep:]
            size += unit.size + (unit.joint if group else 0)
            group.append(unit)
            fresh = True
        if group:
            yield group


class MarkdownChunker(_SizedChunker):
    """Whole blocks (paragraphs, lists, fenced code) of one section, which `heading` names by its path."""

    def chunk(self, document: Document) -> list[Chunk]:
        """See `Chunker`; metadata has the chunk's size and the span of its section."""
        text = document.text
        found: list[Chunk] = []
        if text.strip():
            for heading, part in _sections(text):
                section = {"section": [part[0].start, part[-1].end]}
                found += self._chunks(text, self._of_section(text, part), heading, **section)
        return found

    def _of_section(self, text: str, part: Sequence[Block]) -> Iterator[Group]:
        whole = units_of(text, [(block.start, block.end) for block in part], self._measure, 1 << 40)
        fitting: Group = []
        for unit in whole:
            if unit.size <= self.config.max_size:
                fitting.append(unit)
                continue
            yield from self._fill(text, fitting, self.config.max_size)
            fitting = []
            yield from self._fill(text, self._units(text, unit.start, unit.end), self.config.max_size)
        yield from self._fill(text, fitting, self.config.max_size)


class HierarchicalChunker(MarkdownChunker):
    """Paragraphs with their parents: the spans of paragraph, section and document, and the path of headings."""

    def chunk(self, document: Document) -> list[Chunk]:
        """See `Chunker`; `parents` in the metadata lists document, section and paragraph, outermost first."""
        text = document.text
        found: list[Chunk] = []
        if not text.strip():
            return found
        for heading, part in _sections(text):
            section = {"kind": "section", "heading": heading, "start": part[0].start, "end": part[-1].end}
            above = [{"kind": "document", "heading": document.title, "start": 0, "end": len(text)}, section]
            for start, end in _paragraphs(part):
                parents = [*above, {"kind": "paragraph", "heading": heading, "start": start, "end": end}]
                groups = self._fill(text, self._units(text, start, end), self.config.max_size)
                found += self._chunks(text, groups, heading, parents=parents)
        return found


def _sections(text: str) -> Iterator[tuple[str, list[Block]]]:
    """(path of headings, blocks) of each section; headings without text of their own join what follows them."""
    path: dict[int, str] = {}
    part: list[Block] = []
    has_body = False
    for block in blocks(text):
        if block.level:
            if has_body:
                yield SEPARATOR.join(path[level] for level in sorted(path)), part
                part, has_body = [], False
            path = {level: title for level, title in path.items() if level < block.level}
            path[block.level] = block.title
        else:
            has_body = True
        part.append(block)
    if part:
        yield SEPARATOR.join(path[level] for level in sorted(path)), part


def _paragraphs(part: Sequence[Block]) -> Iterator[Span]:
    """The paragraphs of a section; headings belong to the first paragraph after them."""
    start = None
    for block in part:
        start = block.start if start is None else start
        if not block.level:
            yield start, block.end
            start = None
    if start is not None:
        yield start, part[-1].end
