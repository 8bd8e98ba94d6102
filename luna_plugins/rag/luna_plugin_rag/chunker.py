"""Cutting documents at the ends of sections, paragraphs and sentences, in this order of preference.

The chunks tile the document: joined, they are its text to the character, white space and all. A chunk is never larger
than the limit. It ends with a paragraph if it can, within a paragraph with a sentence, within a sentence with a clause
or a word, and only in a word longer than the limit between two characters (never before a combining mark).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.retrievers import Chunker
from luna_kernel.data.sentences import Span, sentences

from .config import ParagraphConfig

SEPARATOR = " › "

_BLANK = re.compile(r"\n[^\S\n]*(?:\n\s*)+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*(?:\n|\Z)")
_SETEXT = re.compile(r"([^\n]+)\n {0,3}(=+|-+)[ \t]*(?:\n|\Z)")
_PLAIN_HEADING = 80
"""A line of plain text is a heading only up to this length."""


@dataclass(frozen=True)
class _Block:
    """A paragraph, a list, a fenced block or a heading, with the white space after it."""

    start: int
    end: int
    level: int = 0
    """1 to 6 for headings, 0 for the rest."""
    title: str = ""


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

        for block in _blocks(text):
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

    def _takes(self, text: str, start: int, end: int, block: _Block) -> bool:
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


def _blocks(text: str) -> Iterator[_Block]:
    """The blocks of a text, which tile it."""
    spans = list(_paragraphs(text))
    for place, (start, end) in enumerate(spans):
        following = text[spans[place + 1][0] : spans[place + 1][1]] if place + 1 < len(spans) else ""
        yield from _headed(text, start, end, following, first=place == 0)


def _paragraphs(text: str) -> Iterator[Span]:
    """Spans between blank lines; a fenced block is one, blank lines and all."""
    start, position = 0, 0
    while match := _BLANK.search(text, position):
        position = match.end()
        fence = _open_fence(text[start:position])
        if fence:
            closing = re.compile(r"\n {0,3}" + re.escape(fence) + r"+[ \t]*(?:\n\s*|\Z)").search(text, position - 1)
            position = closing.end() if closing else len(text)
        if position >= len(text):
            break
        if text[start:position].strip():
            yield start, position
            start = position
    if start < len(text):
        yield start, len(text)


def _open_fence(block: str) -> str:
    """The fence that a block opens and does not close, or nothing."""
    fence = ""
    for line in block.split("\n"):
        mark = _FENCE.match(line)
        if mark and (not fence or (mark[1].startswith(fence) and not line.strip().strip(fence[0]))):
            fence = "" if fence else mark[1]
    return fence


def _headed(text: str, start: int, end: int, following: str, *, first: bool) -> Iterator[_Block]:
    """A paragraph as blocks: Markdown headings at its start each one of their own, the rest one."""
    while start < end:
        lead = start + len(text[start:end]) - len(text[start:end].lstrip("\n"))
        heading = _ATX.match(text, lead, end) or _SETEXT.match(text, lead, end)
        if heading is None:
            break
        level = len(heading[1]) if heading.re is _ATX else (1 if heading[2][0] == "=" else 2)
        title = heading[2] if heading.re is _ATX else heading[1].strip()
        stop = heading.end() + len(text[heading.end() : end]) - len(text[heading.end() : end].lstrip("\n"))
        yield _Block(start, stop, level, title)
        start = stop
    if start < end:
        block = text[start:end].strip()
        if _is_plain_heading(block, following.strip()):
            yield _Block(start, end, 1 if first or block.isupper() else 2, block)
        else:
            yield _Block(start, end)


def _is_plain_heading(block: str, following: str) -> bool:
    """A short line of its own, without a closing mark, before something that is no list or longer than it."""
    if not following or "\n" in block or len(block) > _PLAIN_HEADING or len(block) < 3:
        return False
    if block[-1] in '.!?…;,:|"”»' or block[0] in '-*+•|>`~[(<"“«':
        return False
    return (
        (block[0].isupper() or block[0].isdigit())
        and any(c.isalpha() for c in block)
        and (len(following) > len(block) or block.isupper())
    )
