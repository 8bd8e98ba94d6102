"""Markdown on a terminal while it streams: styles instead of marks, and nothing that was printed is ever rewritten.

Only what may still become a mark is held back: a handful of characters at the beginning of a line, a `*` or a backtick
at the end of a piece. Known are headings, bold, italics, code, fenced code, quotes and lists; the rest (tables, links)
is printed as it is written. Emphasis ends with its line, so that a stray `**` does not colour the rest of an answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Styled = tuple[str, str]
"""A piece of text and its style, as rich names it; `""` is plain."""

HEADING, QUOTE, CODE, MARKER = "bold magenta", "italic dim", "cyan", "yellow"

_HEAD = re.compile(r"(?P<indent>[ \t]*)(?:(?P<fence>```+|~~~+)|(?P<heading>#{1,6} )|(?P<quote>> ?)|(?P<item>[-*+] ))")
_MAYBE_HEAD = re.compile(r"[ \t]*(?:`{0,2}|~{0,2}|#{0,6}|[-*+>]|(?:```|~~~).*)\Z")
"""The beginning of a line that may still become one of the above; the line of a fence is read whole."""
_MARK = re.compile(r"\*\*|\*|`")


class MarkdownStream:
    """Turns the pieces of an answer into styled pieces."""

    def __init__(self) -> None:
        self._held = ""
        self._at_line_start = True
        self._fence = ""
        """The mark that closes the block of code that is open."""
        self._line_style = ""
        self._marks: list[str] = []
        """Open emphasis: `**`, `*` and backtick."""
        self._before = ""
        """The last character printed on this line."""

    def push(self, text: str) -> list[Styled]:
        """What can be printed now."""
        self._held += text
        return [piece for piece in self._read(final=False) if piece[0]]

    def finish(self) -> list[Styled]:
        """The rest, at the end of the answer."""
        return [piece for piece in self._read(final=True) if piece[0]]

    def _read(self, *, final: bool) -> Iterator[Styled]:
        while self._held:
            line, newline, rest = self._held.partition("\n")
            if self._at_line_start:
                if not (newline or final) and (self._fence or _MAYBE_HEAD.match(line)):
                    return
                if self._is_fence(line):
                    self._held = rest
                    yield line + newline, CODE
                    continue
                self._at_line_start = False
                if not self._fence:
                    yield from self._head(line)
                    continue
            if newline or final:
                yield from self._inline(line, final=True)
                yield newline, CODE if self._fence else ""
                self._held = rest
                self._at_line_start, self._line_style, self._marks, self._before = True, "", [], ""
            else:
                kept = len(line) - len(line.rstrip("*`")) if not self._fence else 0
                ready, self._held = (line[:-kept], line[-kept:]) if kept else (line, "")
                yield from self._inline(ready, final=False)
                return

    def _is_fence(self, line: str) -> bool:
        """Whether the line opens or closes a block of code; then it does."""
        match = _HEAD.match(line)
        mark = (match["fence"] or "") if match else ""
        if not mark or (self._fence and not mark.startswith(self._fence)):
            return False
        self._fence = "" if self._fence else mark
        return True

    def _head(self, line: str) -> Iterator[Styled]:
        """The mark at the beginning of a line; it is taken off `_held`."""
        match = _HEAD.match(line)
        if match is None:
            return
        self._held = self._held[match.end() :]
        yield match["indent"], ""
        if match["heading"]:
            self._line_style = HEADING
        elif match["quote"] is not None:
            self._line_style = QUOTE
            yield "│ ", MARKER
        else:
            yield "• ", MARKER

    def _inline(self, text: str, *, final: bool) -> Iterator[Styled]:
        """The text of a line in the styles that its marks say."""
        if self._fence:
            yield text, CODE
            return
        place = 0
        for match in _MARK.finditer(text):
            if not self._is_mark(text, match):
                continue
            yield text[place : match.start()], self._style()
            place = match.end()
            mark = match.group()
            if mark in self._marks:
                del self._marks[self._marks.index(mark) :]
            else:
                self._marks.append(mark)
        yield text[place:], self._style()
        self._before = text[-1:] or self._before

    def _is_mark(self, text: str, match: re.Match[str]) -> bool:
        """Inside code only a backtick is a mark; emphasis opens before a word and closes after one."""
        mark = match.group()
        if mark == "`" or "`" in self._marks:
            return mark == "`"
        before = text[match.start() - 1 : match.start()] or self._before
        after = text[match.end() : match.end() + 1]
        if mark in self._marks:
            return not before.isspace()
        return bool(after) and not after.isspace()

    def _style(self) -> str:
        if "`" in self._marks:
            return CODE
        styles = [self._line_style] if self._line_style else []
        styles += ["bold"] if "**" in self._marks else []
        styles += ["italic"] if "*" in self._marks else []
        return " ".join(styles)
