"""A document's text while it is put together: headings, paragraphs, lists and tables as plain Markdown.

Headings carry `#` marks, since that is what chunkers know a section by. Blocks stand apart by a blank line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.storage import size_text

t = catalogue(__package__)

MAX_CHARS = 64_000_000
"""Characters of text that one file may give; a small file that unfolds into more is a bomb."""
_BLANK = re.compile(r"\s+")


class Layout:
    """Collects blocks of text.

    Args:
        source: the file, for errors.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._blocks: list[str] = []
        self._size = 0
        self.title = ""
        """The first heading, until something better is known."""

    def heading(self, text: str, level: int) -> None:
        """A heading, level 1 to 6."""
        text = one_line(text)
        if text:
            self.title = self.title or text
            self.block(f"{'#' * min(max(level, 1), 6)} {text}")

    def paragraph(self, text: str) -> None:
        """A paragraph; its white space counts as single blanks."""
        self.block(one_line(text))

    def item(self, text: str, *, depth: int = 0) -> None:
        """An item of a list; items that follow each other stand on neighbouring lines."""
        text = one_line(text)
        if text:
            self._add(f"{'  ' * depth}- {text}", apart=not self._blocks or not _is_item(self._blocks[-1]))

    def row(self, cells: Sequence[str]) -> None:
        """A row of a table; rows that follow each other stand on neighbouring lines."""
        texts = [one_line(cell).replace("|", "\\|") for cell in cells]
        if any(texts):
            self._add(f"| {' | '.join(texts)} |", apart=not self._blocks or not _is_row(self._blocks[-1]))

    def block(self, text: str) -> None:
        """A block as it is, lines and all."""
        if text.strip():
            self._add(text.strip("\n"), apart=True)

    def text(self) -> str:
        """The whole text."""
        return "\n".join(self._blocks).strip("\n") + "\n" if self._blocks else ""

    def _add(self, text: str, *, apart: bool) -> None:
        self._size += len(text) + 2
        if self._size > MAX_CHARS:
            limit = size_text(MAX_CHARS)
            raise UsageError(t("too_much_text", source=self._source, limit=limit), hint=t("too_much_text.hint"))
        if apart and self._blocks:
            self._blocks.append("")
        self._blocks.append(text)


def one_line(text: str) -> str:
    """`text` with every run of white space made one blank."""
    return _BLANK.sub(" ", text).strip()


def _is_item(block: str) -> bool:
    return block.lstrip(" ").startswith("- ")


def _is_row(block: str) -> bool:
    return block.startswith("| ") and block.endswith(" |")
