"""The interactive prompt: a line with history and completion; answers stream, Ctrl-C stops the answer only."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from luna_kernel.base import durable, paths
from luna_kernel.base.errors import LunaError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.commands import command_help
from luna_kernel.chat.conversation import take_line
from luna_kernel.chat.printing import Printer
from luna_kernel.chat.session import Session

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry

t = catalogue(__package__)

_HISTORY_LINES = 2000


def converse(session: Session, printer: Printer, *, color: bool = True, first: str | None = None) -> int:
    """Talk with the person at the terminal until they leave; returns the exit status.

    Args:
        session: the conversation.
        printer: shows answers and remarks.
        color: False prints no colours (NO_COLOR).
        first: a line that was typed already; see `chat.first_line`.
    """
    prompt = make_prompt(CommandCompleter(session.plugins.registry, session), printer, color=color)
    if first is not None:
        _do(session, first, printer)
    warned = False
    while not session.closing:
        try:
            draft, session.draft = session.draft, ""
            with late_ctrl_c():
                line = prompt.prompt(prompt_label(color, more=session.collecting is not None), default=draft)
            warned = False
            _do(session, line, printer)
        except KeyboardInterrupt:  # noqa: PERF203  wherever it comes: at the prompt or between two
            if session.collecting is not None:
                session.collecting = None
                printer.remark(t("multi.dropped"))
                continue
            if warned:
                break
            warned = True
            printer.remark(t("prompt.again_to_leave"))
        except EOFError:
            break
    return 0


def make_prompt(completer: Completer, printer: Printer, *, color: bool) -> PromptSession[str]:
    """The prompt, with the history of all terminals."""
    return PromptSession(
        history=LineHistory(paths.state_dir() / "history.jsonl", printer),
        completer=completer,
        complete_while_typing=False,
        key_bindings=_keys(),
        enable_open_in_editor=True,
        color_depth=None if color else ColorDepth.DEPTH_1_BIT,
    )


@contextlib.contextmanager
def late_ctrl_c() -> Iterator[None]:
    """At the prompt Ctrl-C is a key. One that comes as a signal while the terminal changes hands was meant for an
    answer that has just ended: it is passed over, for wherever it were raised it would find the prompt half made."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGINT, lambda _signal, _frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def prompt_label(color: bool, *, more: bool) -> FormattedText:
    """What stands before the cursor; `more`: a question of several lines has begun."""
    label = "…" if more else t("prompt.you")
    return FormattedText([("bold ansicyan" if color else "", f"{label} "), ("", "› ")])


def _do(session: Session, line: str, printer: Printer) -> None:
    """A command or a question; a failure is shown and the conversation goes on."""
    try:
        take_line(session, line, printer)
    except LunaError as error:
        printer.remark(str(error))
    except KeyboardInterrupt:
        printer.remark(t("stats.interrupted"))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class CommandCompleter(Completer):
    """`/commands`, and their arguments where there is a session."""

    def __init__(self, registry: Registry, session: Session | None) -> None:
        self._registry = registry
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What may stand at the cursor."""
        text = document.text_before_cursor
        if not text.startswith("/"):
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            for component in sorted(self._registry.of_kind("command"), key=lambda c: c.name):
                if component.name.startswith(name):
                    yield Completion(component.name, -len(name), display_meta=command_help(component))
            return
        if self._session is None:
            return
        try:
            found = self._session.find_command(name).complete(argument, self._session)
        except LunaError:
            return
        for item in found:
            yield Completion(item, -len(argument))


class LineHistory(History):
    """What was typed, in a private file, shared by all terminals; a disk that refuses is said once, and forgotten.

    Args:
        path: the file, one JSON object per line.
        printer: told when the file cannot be written.
    """

    def __init__(self, path: Path, printer: Printer) -> None:
        super().__init__()
        self._path = path
        self._printer = printer
        self._works = True

    def load_history_strings(self) -> Iterable[str]:
        """The newest first."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return []
        lines: list[str] = []
        for raw in data.splitlines()[-_HISTORY_LINES:]:
            try:
                entry: Any = json.loads(raw)
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("line"), str):
                lines.append(entry["line"])
        return reversed(lines)

    def store_string(self, string: str) -> None:
        """Append one line."""
        if not self._works:
            return
        try:
            if not self._path.exists():
                durable.make_folder(self._path.parent, private=True)
                durable.write_text(self._path, "", private=True)
            durable.append_line(self._path, json.dumps({"line": string}, ensure_ascii=False))
        except LunaError as error:
            self._works = False
            self._printer.remark(t("prompt.no_history", reason=error.text))
