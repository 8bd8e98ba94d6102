"""OpenAI's protocol from the client's side: server-sent events, and what a piece of an answer holds.

Endpoints differ in what they leave out and what they add; what is read here is read by type, and the rest is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_EVENT = 4 << 20
"""Bytes of one event; an endpoint that sends longer ones is not understood."""

_REASONS = {"stop": "end", "length": "length", "max_tokens": "length"}


class MalformedError(ValueError):
    """What came is not the protocol."""


class EventReader:
    """Turns bytes into the data of server-sent events, whatever way the bytes were cut.

    Lines end at \\n, \\r\\n or \\r alone, and nowhere else: U+2028 inside a JSON text is no end of a line.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def push(self, data: bytes) -> Iterator[bytes]:
        """The events that `data` completes.

        Raises:
            MalformedError: an event longer than `MAX_EVENT`.
        """
        buffer = self._rest + data
        held = buffer.endswith(b"\r")  # its \n may be on the way
        *lines, self._rest = buffer[: len(buffer) - held].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if held:
            self._rest += b"\r"
        for line in lines:
            self._size += len(line)
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                yield self._take()
        if self._size + len(self._rest) > MAX_EVENT:
            raise MalformedError("an event without an end")

    def finish(self) -> Iterator[bytes]:
        """An event that the end of the stream completes."""
        if self._rest.startswith(b"data:"):
            self._data.append(self._rest[5:].strip())
        if self._data:
            yield self._take()

    def _take(self) -> bytes:
        event = b"\n".join(self._data)
        self._data, self._size = [], 0
        return event


@dataclass
class Piece:
    """What one event says."""

    text: str = ""
    thinking: str = ""
    reason: str | None = None
    """Why the answer ended, by a turn's name for it."""
    filtered: bool = False
    """Whether the endpoint held something back."""
    usage: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    """What the endpoint says went wrong after it had begun."""


def read_piece(event: bytes) -> Piece:
    """Read one event, or a whole answer that came at once.

    Raises:
        MalformedError: no JSON object, or its parts are of other types than the protocol's.
    """
    try:
        data = json.loads(event)
    except (ValueError, RecursionError):
        raise MalformedError(event[:80].decode("utf-8", "replace")) from None
    if not isinstance(data, dict):
        raise MalformedError(event[:80].decode("utf-8", "replace"))
    if data.get("error"):
        return Piece(error=error_text(data) or "error")
    piece = Piece(usage=_usage(data.get("usage")))
    choices = data.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise MalformedError("choices")
    for choice in choices[:1]:
        said = choice.get("delta") or choice.get("message") or {}
        if not isinstance(said, dict):
            raise MalformedError("delta")
        piece.text = _text(said, "content") + _text(said, "refusal")
        piece.thinking = _text(said, "reasoning_content") or _text(said, "reasoning")
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            piece.reason = _REASONS.get(reason, "end")
            piece.filtered = reason == "content_filter"
    return piece


def error_text(data: Any) -> str:
    """The message of an error, as the endpoints put it: `error.message`, `error`, `detail`, `message`."""
    if not isinstance(data, dict):
        return ""
    found = data.get("error") or data.get("detail") or data.get("message") or ""
    if isinstance(found, dict):
        found = found.get("message") or found.get("type") or ""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def error_code(data: Any) -> str:
    """The endpoint's code for the error, such as `model_not_found`; often there is none."""
    error = data.get("error") if isinstance(data, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if value is None:
        return ""
    if isinstance(value, list):  # parts, as in a request
        value = "".join(part.get("text", "") for part in value if isinstance(part, dict))
    if not isinstance(value, str):
        raise MalformedError(name)
    return value.encode("utf-8", "replace").decode("utf-8")  # half a character cannot be shown or kept


def _usage(found: Any) -> dict[str, int]:
    if not isinstance(found, dict):
        return {}
    counts = {name: found.get(name) for name in ("prompt_tokens", "completion_tokens")}
    details = found.get("prompt_tokens_details")
    counts["cached_tokens"] = details.get("cached_tokens") if isinstance(details, dict) else None
    return {name: value for name, value in counts.items() if isinstance(value, int) and value >= 0}
