"""Cutting documents at the ends of sections, paragraphs and sentences, in this order of preference.

The chunks tile the document: joined, they are its text to the character, white space and all. A chunk is never larger
than the limit. It ends with a paragraph if it can, within a paragraph with a sentence, within a sentence with a clause
or a word, and only in a word longer than the limit between two characters (never before a combining mark).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.retrievers import Chunker
from luna_kernel.data.blocks import SEPARATOR, Block, blocks
from luna_kernel.data.sentences import Span, sentences

from .config import ParagraphConfig


class ParagraphChunker(Chunker):
    """Whole paragraphs and sentences up to a size, with the headings above them."""

    config: ParagraphConfig

    def __init__(self, config: ParagraphConfig | None = None) -> None:
        super().__init__(config or ParagraphConfig())

    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order; joined, they are the document's text. None for a text without content."""
        text = document.text
        if not text.strip():
            return []
        chunks: list[Chunk] = []
        path: dict[int, str] = {}
        start, end = 0, 0
        """The chunk that is being filled: `text[start:end]`."""
        has_body = False

        def close() -> None:
            nonlocal start, has_body
            if end > start:
                heading = SEPARATOR.join(path[level] for level in sorted(path))
                chunks.extend(Chunk(text[a:b], a, b, heading) for a, b in self._pieces(text, start, end))
            start, has_body = end, False

        for block in blocks(text):
            if block.level and self.config.headings:
                if has_body:
                    close()
                path = {level: title for level, title in path.items() if level < block.level}
                path[block.level] = block.title
            elif has_body and not self._takes(text, start, end, block):
                close()
            has_body = has_body or not block.level
            end = block.end
        close()
        return chunks

    def _takes(self, text: str, start: int, end: int, block: Block) -> bool:
        """Whether `block` joins the chunk: it is small, and both together keep within the limit."""
        if not self._fits(text, start, block.end):
            return False
        small = min(len(text[start:end].strip()), len(text[block.start : block.end].strip()))
        return small < self.config.min_chars

    def _fits(self, text: str, start: int, end: int) -> bool:
        if end - start > self.config.max_chars:
            return False
        return self.config.max_words is None or len(text[start:end].split()) <= self.config.max_words

    def _pieces(self, text: str, start: int, end: int) -> Iterator[Span]:
        """`text[start:end]` as spans within the limit: itself, or cut at its sentences."""
        if self._fits(text, start, end):
            yield start, end
            return
        begin = reached = start
        """`text[begin:reached]` is known to fit and waits for what comes next."""
        for _, offset in sentences(text[start:end]):
            stop = start + offset
            if not self._fits(text, begin, stop) and begin < reached:
                yield begin, reached
                begin = reached
            while not self._fits(text, begin, stop):
                cut = self._cut(text, begin, stop)
                yield begin, cut
                begin = cut
            reached = stop
        if begin < end:
            yield begin, end

    def _cut(self, text: str, start: int, end: int) -> int:
        """Where to cut a sentence that is too long: the last good place within the limit, never at `start`."""
        limit = min(end, start + self.config.max_chars)
        if self.config.max_words is not None:
            counted = re.compile(rf"(?:\s*\S+){{1,{self.config.max_words}}}\s*").match(text, start, limit)
            limit = counted.end() if counted else limit
        if limit < end:
            part = text[start:limit]
            for pattern in (r"\n\s*", r"[;:,]\s+", r"\s+"):
                places = [match.end() for match in re.finditer(pattern, part) if match.end() > len(part) // 3]
                if places:
                    return start + places[-1]
            while limit > start + 1 and unicodedata.combining(text[limit]):
                limit -= 1
        return limit
