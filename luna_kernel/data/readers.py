"""Readers of the formats that need no library: text, Markdown, JSONL, CSV.

They run in the parser worker, on bytes that nobody has checked. Every line or row that cannot be read is reported with
its place and reason: rows in = records + reported. Text is brought to NFC and its line ends to `\\n`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from luna_kernel.base.encodings import decode, looks_binary
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import BadRecord, Document, Message, Reader, ReadResult, Record, Role
from luna_kernel.data.conditions import read_conditions

t = catalogue(__package__)

MAX_LINE = 8 << 20
"""Characters of one JSONL line or one CSV row; a longer one is reported, not read."""
MAX_ROW_LINES = 1000
"""Lines that one quoted CSV field may span; beyond it the quote counts as never closed."""

_SYSTEM = ("system", "sistema")
_USER = ("prompt", "pergunta", "question", "instruction", "user", "instrucao", "instrução")
_ASSISTANT = ("response", "resposta", "answer", "output", "completion", "assistant", "saida", "saída")
_TEXT = ("text", "texto")
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "sistema"), "system"),
    **dict.fromkeys(("user", "human", "usuario", "usuário"), "user"),
    **dict.fromkeys(("assistant", "gpt", "assistente", "luna"), "assistant"),
}


class BadLineError(Exception):
    """A line that cannot become a record; its text is the reason."""


def _clean(text: str) -> str:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _text_of(data: bytes, source: str) -> tuple[str, str]:
    if looks_binary(data):
        raise UsageError(t("read.binary", source=source), hint=t("read.binary.hint"))
    text, encoding = decode(data)
    return _clean(text), encoding


class TextReader(Reader):
    """Plain text: one document per file, named after it."""

    extensions: tuple[str, ...] = (".txt",)
    piecewise = True

    def read(self, data: bytes, source: str) -> ReadResult:
        """The whole text, in whatever encoding it was written."""
        text, encoding = _text_of(data, source)
        if not text.strip():
            return ReadResult(bad=[BadRecord(source, t("read.empty"))])
        return ReadResult(documents=[Document(text, source, self._title(text, source), {"encoding": encoding})])

    def _title(self, text: str, source: str) -> str:
        return PurePath(source).stem


class MarkdownReader(TextReader):
    """Markdown, kept as it is written; the title is the first heading outside code."""

    extensions = (".md", ".markdown")
    piecewise = False

    def _title(self, text: str, source: str) -> str:
        fence = ""
        before = ""
        for line in text.split("\n"):
            mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
            if mark and (not fence or (line.strip().startswith(fence) and not line.strip().strip(fence[0]))):
                fence = "" if fence else mark[1]
            elif not fence:
                heading = re.match(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$", line)
                if heading and heading[1]:
                    return heading[1]
                if before.strip() and re.fullmatch(r" {0,3}(=+|-+)[ \t]*", line):
                    return before.strip()
            before = "" if fence else line
        return super()._title(text, source)


class JsonlReader(Reader):
    """One JSON object per line: `messages` (role, content, thinking), a question and its answer, or `text`.

    Questions: prompt, instruction (with `input`), question, pergunta. Answers: response, output, completion, answer,
    resposta. `system` may stand beside them. Preferences: a better and a worse answer, `chosen` and `rejected`, beside
    the question or the `messages` before them; or `label`, true or false, beside one answer. ShareGPT's
    `conversations` (from, value) are messages too. `condition` may stand beside any of them; see
    `luna_kernel.data.conditions`.
    """

    extensions = (".jsonl", ".ndjson")
    piecewise = True

    def read(self, data: bytes, source: str) -> ReadResult:
        """Each line a record or a reported fault; blank lines count as neither."""
        result = ReadResult()
        for number, line in enumerate(_lines(data, source), 1):
            if not line.strip():
                continue
            place = f"{source}:{number}"
            try:
                result.records.append(_conditioned(_parse(line), place))
            except BadLineError as error:
                result.bad.append(BadRecord(place, str(error)))
        return result


def _lines(data: bytes, source: str) -> Iterator[str]:
    """Lines at `\\n` only. Each decides its encoding for itself: one damaged line must not spoil the others."""
    if looks_binary(data):
        raise UsageError(t("read.binary", source=source), hint=t("read.binary.hint"))
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:64]:
        yield from _clean(decode(data)[0]).split("\n")
        return
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        yield decode(line)[0]


def _parse(line: str) -> Any:
    if len(line) > MAX_LINE:
        raise BadLineError(t("read.line_too_long", limit=MAX_LINE))
    try:
        return json.loads(line, object_pairs_hook=_unique, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise BadLineError(t("read.json_syntax", column=error.colno)) from error
    except RecursionError as error:
        raise BadLineError(t("read.json_depth")) from error
    except ValueError as error:  # a number of more digits than Python reads
        raise BadLineError(t("read.json_number")) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise BadLineError(t("read.json_twice"))
    return built


def _constant(name: str) -> Any:
    raise BadLineError(t("read.json_constant", name=name))


def _conditioned(item: Any, place: str) -> Record:
    record = _judged(item, place)
    if "condition" not in item:
        return record
    try:
        return replace(record, condition=read_conditions(item["condition"]))
    except UsageError as error:
        raise BadLineError(error.text) from error


def _judged(item: Any, place: str) -> Record:
    """A record with what is said of its answer: `chosen` and `rejected`, or `label`."""
    if isinstance(item, dict) and "chosen" in item and "rejected" in item:
        chosen, rejected = _string(item["chosen"], "chosen"), _string(item["rejected"], "rejected")
        if "messages" in item:
            messages = (*_messages(item["messages"]), Message("assistant", chosen))
        else:
            messages = record_of({**item, "completion": chosen}, place).messages
        return Record(messages=messages, place=place, rejected=rejected)
    record = record_of(item, place)
    label = item.get("label")
    return replace(record, desirable=label) if record.messages and isinstance(label, bool) else record


def record_of(item: Any, place: str) -> Record:
    """A record out of one parsed JSON object.

    Raises:
        BadLineError: it has none of the known shapes.
    """
    if not isinstance(item, dict):
        raise BadLineError(t("read.not_object"))
    for key in ("messages", "conversations", "mensagens"):
        if key in item:
            return Record(messages=_messages(item[key]), place=place)
    user, assistant = _first(item, _USER), _first(item, _ASSISTANT)
    if user is not None and assistant is not None:
        extra = item.get("input")
        question = _string(item[user], user)
        if extra:
            question = f"{question}\n\n{_string(extra, 'input')}"
        system = _first(item, _SYSTEM)
        messages = [Message("system", _string(item[system], system))] if system and item[system] else []
        messages += [Message("user", question), Message("assistant", _string(item[assistant], assistant))]
        return Record(messages=tuple(messages), place=place)
    text = _first(item, _TEXT)
    if text is not None:
        return Record(text=_string(item[text], text), place=place)
    raise BadLineError(t("read.no_shape", keys=", ".join(sorted(map(str, item)))[:200] or "-"))


def _messages(items: Any) -> tuple[Message, ...]:
    if not isinstance(items, list) or not items:
        raise BadLineError(t("read.no_messages"))
    messages = []
    for item in items:
        if not isinstance(item, dict):
            raise BadLineError(t("read.bad_message"))
        said = str(item.get("role", item.get("from", "")))
        role = _ROLES.get(said.lower())
        if role is None:
            raise BadLineError(t("read.bad_role", role=said[:40], roles=", ".join(("system", "user", "assistant"))))
        thinking = item.get("thinking")
        content = _string(item.get("content", item.get("value")), "content")
        messages.append(Message(role, content, None if thinking is None else _string(thinking, "thinking")))
    return tuple(messages)


def _first(item: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in item), None)


def _string(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise BadLineError(t("read.not_string", key=key))
    if not value.strip():
        raise BadLineError(t("read.blank", key=key))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadLineError(t("read.surrogate", key=key)) from error
    return _clean(value)


class CsvReader(Reader):
    """A table with a header: `pergunta,resposta` or `question,answer` (and their kin), or `text`; `system` may be
    there.

    The separator is whichever of `;`, `,` and tab gives known columns, as Excel writes `;` in Portuguese. For search
    any header does, with the separator that it has most of: each row is a text, a line `column: value` per column.
    """

    extensions = (".csv", ".tsv")

    def read(self, data: bytes, source: str) -> ReadResult:
        """Each row a record or a reported fault."""
        text, _ = _text_of(data, source)
        lines = text.split("\n")
        first = next((index for index, line in enumerate(lines) if line.strip()), None)
        if first is None:
            return ReadResult(bad=[BadRecord(source, t("read.empty"))])
        columns, delimiter = _header(lines[first], source, any_columns=self.search)
        known = _is_known(columns)
        result = ReadResult()
        position = first + 1
        while position < len(lines):
            place = f"{source}:{position + 1}"
            if not lines[position].strip():
                position += 1
                continue
            try:
                fields, position = _row(lines, position, delimiter)
                row = _named(columns, fields)
                result.records.append(record_of(row, place) if known else Record(text=_listed(row), place=place))
            except _RowError as error:
                result.bad.append(BadRecord(place, str(error)))
                position += 1  # the row alone is given up; those that it would have swallowed are read
            except BadLineError as error:
                result.bad.append(BadRecord(place, str(error)))
        return result


def _named(columns: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
    if len(fields) != len(columns):
        raise BadLineError(t("read.other_fields", found=len(fields), expected=len(columns)))
    return {name: value for name, value in zip(columns, fields, strict=True) if value.strip() or name != "input"}


def _listed(row: Mapping[str, str]) -> str:
    """`column: value` for each column that is filled."""
    lines = [f"{name}: {value.strip()}" for name, value in row.items() if value.strip()]
    if not lines:
        raise BadLineError(t("read.blank", key=", ".join(row)))
    return "\n".join(lines)


def _is_known(columns: Sequence[str]) -> bool:
    """Whether the columns are those of questions with answers, or of texts."""
    names = dict.fromkeys(columns)
    return bool((_first(names, _USER) and _first(names, _ASSISTANT)) or _first(names, _TEXT))


class _RowError(BadLineError):
    """A row that has no end that one can trust: too long, or a quote that is never closed, or closed inside a field."""


def _header(line: str, source: str, *, any_columns: bool) -> tuple[list[str], str]:
    """The columns, in lower case where they are known ones, and what separates them."""
    for delimiter in (";", ",", "\t"):
        try:
            fields, _ = _row([line], 0, delimiter)
        except BadLineError:
            continue
        names = [name.strip().lower() for name in fields]
        if _is_known(names) and len(set(names)) == len(names):
            return names, delimiter
    if any_columns:
        delimiter = max(";,\t", key=line.count)
        fields, _ = _row([line], 0, delimiter)
        names = [name.strip() or str(place) for place, name in enumerate(fields, 1)]
        return [name if names.count(name) == 1 else f"{name} {place}" for place, name in enumerate(names, 1)], delimiter
    raise UsageError(t("read.no_columns", source=source, header=line[:120]), hint=t("read.no_columns.hint"))


def _row(lines: Sequence[str], position: int, delimiter: str) -> tuple[list[str], int]:
    """One row's fields from `lines[position]` on, and the position after it (RFC 4180)."""
    line = lines[position]
    if len(line) > MAX_LINE:
        raise _RowError(t("read.line_too_long", limit=MAX_LINE))
    if '"' not in line:
        return line.split(delimiter), position + 1
    fields: list[str] = []
    column = 0
    begin = position
    while True:
        if column < len(line) and line[column] == '"':
            parts: list[str] = []
            column += 1
            while True:
                closing = line.find('"', column)
                if closing < 0:
                    parts.append(line[column:] + "\n")
                    position += 1
                    if position >= len(lines) or position - begin >= MAX_ROW_LINES:
                        raise _RowError(t("read.unclosed"))
                    line, column = lines[position], 0
                elif line.startswith('"', closing + 1):
                    parts.append(line[column : closing + 1])
                    column = closing + 2
                else:
                    parts.append(line[column:closing])
                    column = closing + 1
                    break
            if column < len(line) and line[column] != delimiter:
                raise _RowError(t("read.quote_inside"))
            fields.append("".join(parts))
        else:
            end = line.find(delimiter, column)
            end = len(line) if end < 0 else end
            fields.append(line[column:end])
            column = end
        if column >= len(line):
            return fields, position + 1
        column += 1
