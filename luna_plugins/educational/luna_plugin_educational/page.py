"""Pages for a terminal: lines with colours beside them, so that the text alone says everything.

Drawings are made of plain ASCII; a colour only repeats what a character says. On a pipe or under NO_COLOR nothing but
the characters is left.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence

from luna_kernel.base.messages import number_text
from luna_kernel.chat.streaming import printable
from luna_kernel.cli.tables import table, width
from luna_kernel.contracts.chat import Painted

RAMP = " .:-=+*#%@"
"""From 0 to 1, the darker the more."""
_SHADES = ("#f7fbff", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08519c", "#08306b", "#041a3c")
"""Blues of one hue, light to dark (ColorBrewer's `Blues`): a person who tells no hues apart still sees the order."""
TOKEN_STYLES = ("black on #cfe8ff", "black on #ffe3b3", "black on #d5f5d0", "black on #f5d0e3")
"""Backgrounds of neighbouring tokens and chunks."""

Span = tuple[str, str]
"""A text and its style."""


def terminal_width() -> int:
    """Columns to draw in, 40 to 140."""
    return max(40, min(140, shutil.get_terminal_size((100, 24)).columns - 1))


class Page:
    """Collects lines; `painted()` gives the whole."""

    def __init__(self, columns: int | None = None) -> None:
        self.columns = columns or terminal_width()
        self._text = ""
        self._spans: list[tuple[int, int, str]] = []
        self._steps = 0

    def line(self, *parts: str | Span) -> None:
        """A line of texts, some with a style."""
        for part in parts:
            text, style = (part, "") if isinstance(part, str) else part
            text = printable(text)
            if style:
                self._spans.append((len(self._text), len(self._text) + len(text), style))
            self._text += text
        self._text += "\n"

    def head(self, text: str) -> None:
        """A heading, with an empty line above it."""
        if self._text:
            self.line()
        for part in textwrap.wrap(text, self.columns - 2) or [""]:
            self.line((part, "bold"))

    def step(self, text: str) -> None:
        """A heading with the next number."""
        self._steps += 1
        self.head(f"{self._steps}. {text}")

    def prose(self, text: str) -> None:
        """Sentences, wrapped."""
        for line in textwrap.wrap(" ".join(text.split()), self.columns - 2, break_long_words=True):
            self.line("  " + line)

    def rows(self, rows: Sequence[Sequence[str]]) -> None:
        """A table, its first row a head; lines that are too long are cut."""
        for number, line in enumerate(table(rows).split("\n")):
            self.line(("  " + clip(line, self.columns - 2), "" if number else "dim"))

    def flow(self, pieces: Sequence[Span]) -> None:
        """Pieces side by side, one style each, as many to a line as fit."""
        row: list[str | Span] = ["  "]
        used = 2
        for text, style in pieces:
            text = clip(printable(text), self.columns - 4)
            if used + width(text) + 1 > self.columns and len(row) > 1:
                self.line(*row)
                row, used = ["  "], 2
            row += [(text, style), " "]
            used += width(text) + 1
        if len(row) > 1:
            self.line(*row)

    def heat(self, names: Sequence[str], values: Sequence[Sequence[float]], marks: Sequence[str]) -> None:
        """A square of cells, rows named, on a scale from 0 to the largest value.

        Args:
            names: of the rows.
            values: each row's cells, at most as many as there are columns; shorter rows end early.
            marks: two characters over each column.
        """
        side = max(width(name) for name in names)
        top = max((value for row in values for value in row), default=0.0) or 1.0
        self.line(" " * (side + 4) + "".join(marks))
        for name, row in zip(names, values, strict=True):
            cells: list[str | Span] = ["  ", name + " " * (side - width(name)), "  "]
            for value in row:
                level = min(len(RAMP) - 1, max(0, int(value / top * len(RAMP))))
                ink = "white" if level > 4 else "black"
                cells.append((RAMP[level] * 2, f"{ink} on {_SHADES[level]}"))
            self.line(*cells)
        self.line(
            "  " + " " * (side + 2) + "0 ",
            *((c * 2, f"black on {s}") for c, s in zip(RAMP, _SHADES, strict=True)),
            f" {number_text(top, 2)}",
        )

    def painted(self) -> Painted:
        """The page."""
        text = self._text.removesuffix("\n")
        return Painted(text, [] if os.environ.get("NO_COLOR") else self._spans)


def clip(text: str, columns: int) -> str:
    """`text` on one line, cut to `columns` with `...` at its end."""
    text = text.replace("\n", " ").replace("\t", " ")
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 3:
        text = text[:-1]
    return text + "..."


def bar(share: float, columns: int = 20) -> str:
    """`share` (0 to 1) as a bar of ASCII."""
    full = round(min(1.0, max(0.0, share)) * columns)
    return "#" * full + "." * (columns - full)
