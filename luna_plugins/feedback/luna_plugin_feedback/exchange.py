"""Feedback as JSON lines, out and in: one object per entry.

    {"id": …, "timestamp": "2026-11-27T10:00:00+00:00", "conversation_id": …, "response_id": …,
     "feedback": {"helpful": 4, …, "text_feedback": …, "corrections": …, "verdict": "good"},
     "original_response": …, "prompt": [{"role": …, "content": …}], "model": …, "generator": …, "sources": […]}

Only `feedback` must be there. A time without an offset is local time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of
from luna_kernel.contracts.data import ROLES
from luna_kernel.data.portuguese import word_set

from .entry import Entry, id_of, judgement, words_of

t = catalogue(__package__)

MAX_LINE = 4 << 20
"""Bytes of one line; a longer one is reported, not read."""
_KEYS = word_set("id timestamp conversation_id response_id feedback original_response prompt model generator sources")


@dataclass
class Read:
    """What a file gave; lines in = entries + faults."""

    entries: list[Entry] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    """(line from 1, why it was not read)."""


def to_json(entry: Entry) -> dict[str, Any]:
    """An entry as one object."""
    said = {"verdict": entry.verdict, "text_feedback": entry.text, "corrections": entry.correction}
    feedback = {**entry.ratings, **{key: value for key, value in said.items() if value}}
    return {
        "id": entry.id,
        "timestamp": datetime.fromtimestamp(entry.created, timezone.utc).isoformat(),
        "conversation_id": entry.session_id,
        "response_id": entry.response_id,
        "feedback": feedback,
        "original_response": entry.answer,
        "prompt": list(entry.prompt),
        "model": entry.model,
        "generator": entry.generator,
        "sources": list(entry.sources),
    }


def to_line(entry: Entry) -> str:
    """An entry as one line, its end included."""
    return json.dumps(to_json(entry), ensure_ascii=False, allow_nan=False) + "\n"


def read_file(path: Path) -> Read:
    """Read a file line by line; blank lines count as neither.

    Raises:
        UsageError: the file cannot be read.
    """
    result = Read()
    try:
        with path.open("rb") as file:
            for number, raw in _lines(file):
                _take(result, number, raw)
    except OSError as error:
        text = t("import.unreadable", path=path, reason=reason_of(error))
        raise UsageError(text, hint=t("import.unreadable.hint")) from error
    return result


def _take(result: Read, number: int, raw: bytes) -> None:
    try:
        result.entries.append(from_json(_parse(raw)))
    except UsageError as error:
        result.faults.append((number, error.text))


def _lines(file: Any) -> Iterator[tuple[int, bytes]]:
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        cut = raw
        while not cut.endswith(b"\n") and (cut := file.readline(MAX_LINE)):  # the rest of a line that is too long
            raw = raw[: MAX_LINE + 1] + b" "
        if raw.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").strip():
            yield number, raw


def _parse(raw: bytes) -> Any:
    if len(raw) > MAX_LINE:
        raise UsageError(t("line.long", limit=MAX_LINE))
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise UsageError(t("line.encoding", byte=error.start + 1)) from error
    except json.JSONDecodeError as error:
        raise UsageError(t("line.syntax", column=error.colno)) from error
    except (RecursionError, ValueError) as error:
        raise UsageError(t("line.number")) from error


def _refuse(name: str) -> Any:
    raise ValueError(name)


def from_json(item: Any) -> Entry:
    """An entry out of one object.

    Raises:
        UsageError: what is wrong with it.
    """
    if not isinstance(item, dict) or not isinstance(item.get("feedback"), dict):
        raise UsageError(t("line.no_feedback"))
    unknown = sorted(item.keys() - _KEYS)
    if unknown:
        raise UsageError(t("line.unknown", keys=", ".join(unknown)[:200], known=", ".join(sorted(_KEYS))))
    fields: dict[str, Any] = judgement(item["feedback"])
    if "timestamp" in item:
        fields["created"] = _time_of(item["timestamp"])
    for key, name in (("id", "id"), ("conversation_id", "session_id"), ("response_id", "response_id")):
        if item.get(key):
            fields[name] = id_of(item[key])
    for key, name in (("original_response", "answer"), ("model", "model"), ("generator", "generator")):
        if item.get(key):
            fields[name] = words_of(key, item[key])
    fields["prompt"] = tuple(map(_message, _list(item, "prompt")))
    fields["sources"] = tuple(_list(item, "sources"))
    if not all(isinstance(source, dict) for source in fields["sources"]):
        raise UsageError(t("line.list", key="sources"))
    return Entry(**fields)


def _list(item: dict[str, Any], key: str) -> list[Any]:
    value = item.get(key) or []
    if isinstance(value, str) and key == "prompt":
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise UsageError(t("line.list", key=key))
    return value


def _message(item: Any) -> dict[str, str]:
    if not isinstance(item, dict) or item.get("role") not in ROLES:
        raise UsageError(t("line.message"))
    return {"role": item["role"], "content": words_of("prompt", item.get("content"))}


def _time_of(value: Any) -> float:
    try:
        text = str(value)
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(t("line.time", value=str(value)[:40])) from error
