"""Running a conversation: one question, questions from a pipe, or a person at a terminal.

Ctrl-C during an answer stops that answer only; what came so far is kept. A second Ctrl-C during the same answer, for
an answer that does not stop, leaves.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType

from luna_kernel.base.encodings import decode
from luna_kernel.base.errors import LunaError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.printing import JsonPrinter, Printer
from luna_kernel.chat.session import MAX_QUERY_CHARS, Session
from luna_kernel.contracts.chat import Thinking

t = catalogue(__package__)

MAX_QUERY_BYTES = 4 * MAX_QUERY_CHARS + 2


def answer(session: Session, query: str, printer: Printer) -> bool:
    """Ask and show one answer; returns whether it was stopped by Ctrl-C.

    Raises:
        LunaError: see `Session.ask`, or a step failed.
        KeyboardInterrupt: a second Ctrl-C.
    """
    with _ctrl_c_stops(session):
        for event in session.ask(query):
            if not isinstance(event, Thinking) or session.options.show_thinking:
                printer.show(event)
    turn = session.turns[-1]
    printer.end(turn, session)
    return turn.stop_reason == "interrupted"


END_OF_QUESTION = "/end"
"""Ends a question of several lines that `/multi` began."""


def take_line(session: Session, line: str, printer: Printer) -> bool:
    """A command, a question, or a line of one; then what the command wants asked. Returns whether Ctrl-C stopped it.

    Raises:
        LunaError: see `answer`, or the command failed.
    """
    if session.collecting is not None:
        if line.strip() != END_OF_QUESTION:
            session.collecting.append(line)
            return False
        query, session.collecting = "\n".join(session.collecting), None
        return answer(session, query, printer)
    line = line.strip()
    if not line:
        return False
    if not line.startswith("/"):
        return answer(session, line, printer)
    shown = session.command(line)
    if shown:
        printer.remark(shown)
    wanted = session.take_next()
    return wanted is not None and answer(session, wanted, printer)


def answer_lines(session: Session, lines: Iterable[bytes], printer: Printer) -> int:
    """Answer one question per line until the end of `lines`, `/exit` or Ctrl-C; empty lines are skipped.

    A question that fails is reported on stderr (or as a JSON object) and the next one is taken.

    Returns:
        The exit status: 0, 1 or 2 of the last failure, 130 after Ctrl-C.
    """
    status = 0
    for number, raw in enumerate(lines, start=1):
        line = decode(raw)[0].rstrip("\r\n")
        try:
            if take_line(session, line, printer):
                return 130
        except LunaError as error:
            status = error.exit_code
            if isinstance(printer, JsonPrinter):
                printer.write({"query": line.strip()[:200], "line": number, **error.to_json()})
            else:
                printer.remark(t("error.in_line", line=number, text=str(error)))
        if session.closing:
            break
    return status


def read_lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a binary file; one that is longer than any question may be is cut, which `ask` then refuses."""
    readline = getattr(stream, "readline", None)
    assert readline is not None
    while raw := readline(MAX_QUERY_BYTES):
        whole = raw.endswith(b"\n")
        yield raw
        while not whole:
            rest = readline(1 << 20)
            if not rest:
                return
            whole = rest.endswith(b"\n")


@contextlib.contextmanager
def _ctrl_c_stops(session: Session) -> Iterator[None]:
    """While the block runs, Ctrl-C stops the session's answer; a second one raises."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_interrupt(_signal: int, _frame: FrameType | None) -> None:
        if session.stopped:
            raise KeyboardInterrupt
        session.stop()

    former = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def is_terminal() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()
