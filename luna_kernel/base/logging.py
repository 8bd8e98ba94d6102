"""Logs for developers, on stderr: short lines for a person, or JSON lines with `LUNA_LOG=json`.

Nothing is set up at import, and structlog is imported when the first line is really written. `LUNA_LOG_LEVEL` is
debug, info, warning (default), error or critical. What people wrote, or models answered, is never in a log: of such
fields only the length is kept.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import MutableMapping
from typing import Any

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

# Fields that may hold people's words.
TEXTS = frozenset(
    {"answer", "content", "correction", "document", "input", "message", "messages", "output", "passage", "passages"}
    | {"persona", "prompt", "query", "question", "reply", "system", "text", "turn", "turns", "user"}
)


class Logger:
    """A named logger that costs nothing until it writes.

    Args:
        name: usually `__name__`; the field `logger` of each line.
        fields: fields that each of its lines has.
    """

    def __init__(self, name: str, **fields: object) -> None:
        self.name = name
        self.fields = fields

    def bind(self, **fields: object) -> Logger:
        """A logger whose lines have these fields too."""
        return Logger(self.name, **{**self.fields, **fields})

    def debug(self, event: str, **fields: object) -> None:
        """For whoever looks for a fault."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What goes its way."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """What is not right, while the work goes on."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """What failed."""
        self._write("error", event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """What failed, with the traceback of the exception being handled."""
        self._write("error", event, {"exc_info": True, **fields})

    def critical(self, event: str, **fields: object) -> None:
        """What ends the program."""
        self._write("critical", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, object]) -> None:
        if LEVELS[level] < _threshold():
            return
        as_json = os.environ.get("LUNA_LOG", "").lower() == "json"
        colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        line = _render(as_json, colours)(level, {"event": event, "logger": self.name, **self.fields, **fields})
        print(line, file=sys.stderr)


def get_logger(name: str) -> Logger:
    """The logger of a module; importing nothing."""
    return Logger(name)


def hide_texts(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: of people's words only how long they are."""
    for key in TEXTS & event.keys():
        value = event[key]
        size = len(value) if isinstance(value, str | bytes | list | tuple | dict) else None
        event[key] = "<hidden>" if size is None else f"<hidden: {size}>"
    return event


def _threshold() -> int:
    return LEVELS.get(os.environ.get("LUNA_LOG_LEVEL", "").lower(), LEVELS["warning"])


@functools.cache
def _render(as_json: bool, colours: bool) -> Any:
    """A function (level, fields) -> line. It leaves structlog's global configuration to the host program."""
    import structlog

    processors: list[Any] = [
        hide_texts,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if as_json:
        processors += [
            structlog.processors.format_exc_info,  # dict_tracebacks would log local variables: people's words
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    else:
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain))

    def render(level: str, fields: dict[str, object]) -> str:
        event: Any = fields
        for processor in processors:
            event = processor(None, level, event)
        return str(event)

    return render
