"""The blocks of a text, which tile it: paragraphs, lists, fenced code, headings (of Markdown and of plain text)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from luna_kernel.data.sentences import Span

SEPARATOR = " › "
"""Between the headings of a path."""
_BLANK = re.compile(r"\n[^\S\n]*(?:\n\s*)+")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*(?:\n|\Z)")
_SETEXT = re.compile(r"([^\n]+)\n {0,3}(=+|-+)[ \t]*(?:\n|\Z)")
_NUMBERED = re.compile(r"(?:([^\W\d]+)\.? +)?(?:\d+|[IVXLCDM]+)\b(?!\.\d)")
_PLAIN_HEADING = 80
"""A line of plain text is a heading only up to this length."""


@dataclass(frozen=True)
class Block:
    """A paragraph, a list, a fenced block or a heading, with the white space after it."""

    start: int
    end: int
    level: int = 0
    """1 to 6 for headings, 0 for the rest."""
    title: str = ""


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a text, which tile it."""
    spans = list(_paragraphs(text))
    top: str | None = None
    """How the first line numbers itself, where it is a heading of plain text."""
    for place, (start, end) in enumerate(spans):
        following = text[spans[place + 1][0] : spans[place + 1][1]] if place + 1 < len(spans) else ""
        for block in _headed(text, start, end, following, top=top, first=place == 0):
            if place == 0:
                top = _numbering(block.title)
            yield block


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


def _headed(text: str, start: int, end: int, following: str, *, top: str | None, first: bool) -> Iterator[Block]:
    """A paragraph as blocks: Markdown headings at its start each one of their own, the rest one.

    A heading of plain text is of the first level if it is the first, in capitals, or numbered as the first one is:
    `Capítulo 2` does not belong to `Capítulo 1`.
    """
    while start < end:
        lead = start + len(text[start:end]) - len(text[start:end].lstrip("\n"))
        heading = _ATX.match(text, lead, end) or _SETEXT.match(text, lead, end)
        if heading is None:
            break
        level = len(heading[1]) if heading.re is _ATX else (1 if heading[2][0] == "=" else 2)
        title = heading[2] if heading.re is _ATX else heading[1].strip()
        stop = heading.end() + len(text[heading.end() : end]) - len(text[heading.end() : end].lstrip("\n"))
        yield Block(start, stop, level, title)
        start = stop
    if start < end:
        block = text[start:end].strip()
        if _is_plain_heading(block, following.strip()):
            is_top = first or block.isupper() or (top is not None and _numbering(block) == top)
            yield Block(start, end, 1 if is_top else 2, block)
        else:
            yield Block(start, end)


def _numbering(title: str) -> str | None:
    """`capítulo` of `Capítulo II`, `#` of `3. Prazos`; None for a heading without a number, and for `3.1 Prazos`."""
    found = _NUMBERED.match(title)
    return (found[1] or "#").casefold() if found else None


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
