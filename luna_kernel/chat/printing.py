"""How an answer reaches the person: as it comes on a terminal, whole on a pipe, as JSON for programs.

stdout carries answers only; remarks, thinking and figures go to stderr. Nothing that was printed is ever rewritten.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from luna_kernel.base.messages import catalogue
from luna_kernel.chat.commands import stats_line
from luna_kernel.chat.markdown import MarkdownStream
from luna_kernel.chat.streaming import printable
from luna_kernel.contracts.chat import Citation, Event, Notice, Painted, Text, Thinking, Turn

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


class Printer(ABC):
    """Shows the events of answers, one answer after another."""

    @abstractmethod
    def show(self, event: Event) -> None:
        """Show one event."""

    @abstractmethod
    def end(self, turn: Turn, session: Session) -> None:
        """The answer is complete."""

    def remark(self, text: str) -> None:
        """Show something that is no answer."""
        print(text, file=sys.stderr, flush=True)


class PlainPrinter(Printer):
    """Text for pipes and files: the answer, its sources, and an empty line between answers."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._answers = 0
        self._open = False
        """Whether the line that was written last has no end yet."""

    def show(self, event: Event) -> None:
        """The answer's text at once, remarks on stderr; thinking is not shown."""
        if isinstance(event, Text):
            if self._answers < 0:
                self._out.write("\n")
                self._answers = -self._answers
            self._out.write(printable(event.text))
            self._out.flush()
            self._open = bool(event.text) and not event.text.endswith("\n")
        elif isinstance(event, Notice):
            # The answer may go on after it, so what ends its line is no part of the answer.
            self.remark("\n" * self._open + printable(event.text))
            self._open = False

    def end(self, turn: Turn, session: Session) -> None:
        """Newline and sources."""
        self._open = False
        if not turn.answer.endswith("\n"):
            self._out.write("\n")
        for citation in turn.citations:
            self._out.write(citation_line(citation) + "\n")
        self._out.flush()
        self._answers = -abs(self._answers) - 1  # an empty line is due before the next answer


class JsonPrinter(Printer):
    """One JSON object per answer, on one line."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def show(self, event: Event) -> None:
        """Remarks on stderr; the rest waits for the end."""
        if isinstance(event, Notice):
            self.remark(printable(event.text))

    def end(self, turn: Turn, session: Session) -> None:
        """The object."""
        self.write(answer_json(turn, session))

    def write(self, data: dict[str, Any]) -> None:
        """One line of JSON."""
        self._out.write(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")
        self._out.flush()


class TerminalPrinter(Printer):
    """A person at a terminal: streaming text, dim thinking, sources and one line of figures."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._remarks = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._thinking = False
        self._open = False
        self._markdown = MarkdownStream()

    def show(self, event: Event) -> None:
        """As it comes; a remark begins on a line of its own."""
        if isinstance(event, Notice):
            self._end_text()
            if self._open:
                self._write("\n", None)
            self.remark(event.text)
            return
        if isinstance(event, Thinking):
            self._write(event.text, "dim italic")
            self._thinking = True
            return
        if self._thinking:
            self._write("\n\n", None)
            self._thinking = False
        for text, style in self._markdown.push(event.text):
            self._write(text, style)

    def end(self, turn: Turn, session: Session) -> None:
        """Newline, sources, figures."""
        self._end_text()
        self._thinking = False
        if turn.stop_reason == "interrupted":
            self._write(f" [{t('stats.interrupted')}]", "yellow")
        if self._open or not turn.answer:
            self._write("\n", None)
        for citation in turn.citations:
            self._write("  " + citation_line(citation) + "\n", "dim cyan")
        self._write("  " + stats_line(turn) + "\n", "dim")

    def _end_text(self) -> None:
        for text, style in self._markdown.finish():
            self._write(text, style)
        self._markdown = MarkdownStream()

    def remark(self, text: str) -> None:
        """Dim, on stderr; what comes with colours of its own keeps them."""
        from rich.text import Text as RichText

        if isinstance(text, Painted) and printable(text) == text:
            painted = RichText(str(text))
            for start, end, style in text.spans:
                painted.stylize(style, start, end)
            self._remarks.print(painted)
        else:
            self._remarks.print(RichText(printable(text), style="dim"))

    def _write(self, text: str, style: str | None) -> None:
        from rich.text import Text as RichText

        self._console.print(RichText(printable(text), style=style or ""), end="")
        self._console.file.flush()
        self._open = bool(text) and not text.endswith("\n")


def citation_line(citation: Citation) -> str:
    """`[1] Manual, linha 12 (manual.md)`."""
    title = citation.title if citation.title and citation.title != citation.source else ""
    if citation.page:
        where = t("citation.page", page=citation.page)
    else:
        where = t("citation.line", line=citation.line) if citation.line else t("citation.offset", start=citation.start)
    text = f"[{citation.number}] {title}, {where} ({citation.source})" if title else ""
    return printable(text or f"[{citation.number}] {citation.source}, {where}").replace("\n", " ")


def answer_json(turn: Turn, session: Session) -> dict[str, Any]:
    """An answer as `--json` prints it; the keys are stable and never translated."""
    data: dict[str, Any] = {
        "query": turn.query,
        "answer": turn.answer,
        "citations": [asdict(item) for item in turn.citations],
        "passages": [_passage_json(item) for item in turn.passages],
        "stop_reason": turn.stop_reason,
        "generator": turn.generator,
        "model": session.options.model,
        "plugins": session.plugins.names,
        "persona": session.options.persona,
        "device": session.options.device,
        "timings": {name: round(seconds, 6) for name, seconds in turn.timings.items()},
        "usage": turn.usage,
        "session": session.id,
    }
    if turn.thinking:
        data["thinking"] = turn.thinking
    return data


def _passage_json(passage: Any) -> dict[str, Any]:
    names = ("number", "source", "title", "heading", "start", "end", "line", "page", "score")
    return {name: getattr(passage, name) for name in names}
