"""JSON and YAML: dialogues where they are some, any other data as readable text."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import yaml

from luna_kernel.base.encodings import decode, looks_binary
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.storage import size_text
from luna_kernel.contracts.data import BadRecord, Document, Reader, ReadResult
from luna_kernel.data.readers import BadLineError, record_of

from .faults import bad_syntax, damaged, nested, not_text, nothing_in_it
from .layout import MAX_CHARS, Layout, one_line
from .title import file_title

t = catalogue(__package__)

_TITLES = ("title", "titulo", "título", "name", "nome", "assunto", "subject")
_MAX_DEPTH = 100
_MOST_LEAVES = 1_000_000
"""Values that a file of YAML may stand for. More than it has bytes can only be names that stand for names."""


class JsonReader(Reader):
    """A file of JSON. A list whose items are all dialogues, questions with answers or texts gives records."""

    extensions = (".json",)

    def read(self, data: bytes, source: str) -> ReadResult:
        """Records, or documents: one for each object of a list, else one for the file.

        Raises:
            UsageError: no JSON.
        """
        try:
            value = json.loads(_text(data, source))
        except json.JSONDecodeError as error:
            raise bad_syntax(source, "JSON", error.lineno, error.colno) from None
        except RecursionError:
            raise nested(source) from None
        except ValueError as error:
            raise damaged(source, error) from None
        return _result(value, source, search=self.search)


class YamlReader(Reader):
    """A file of YAML, read without constructing objects. Several documents in one file count as a list."""

    extensions = (".yaml", ".yml")

    def read(self, data: bytes, source: str) -> ReadResult:
        """As of JSON.

        Raises:
            UsageError: no YAML, or it makes objects.
        """
        try:
            values = list(yaml.safe_load_all(_text(data, source)))
        except yaml.constructor.ConstructorError:
            raise UsageError(t("yaml.objects", source=source), hint=t("yaml.objects.hint")) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            if mark is None:
                raise damaged(source, error) from None
            raise bad_syntax(source, "YAML", mark.line + 1, mark.column + 1) from None
        except RecursionError:
            raise nested(source) from None
        except (yaml.YAMLError, ValueError) as error:
            raise damaged(source, error) from None
        if _leaves(values, {}) > max(_MOST_LEAVES, len(data)):
            raise UsageError(
                t("too_much_text", source=source, limit=size_text(MAX_CHARS)), hint=t("too_much_text.hint")
            )
        return _result(values[0] if len(values) == 1 else values, source, search=self.search)


def _leaves(value: Any, known: dict[int, int]) -> int:
    """How many values a structure unfolds to. What is named many times is counted many times and visited once.

    Args:
        value: a structure that may share parts, or hold itself: that counts as nothing there.
        known: the counts of the containers that were visited, by their `id`.
    """
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 0
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = sum(_leaves(item, known) for item in inner)
    return known[id(value)]


def _text(data: bytes, source: str) -> str:
    if not data:
        raise nothing_in_it(source)
    if looks_binary(data):
        raise not_text(source)
    return decode(data)[0]


def _result(value: Any, source: str, *, search: bool) -> ReadResult:
    if isinstance(value, list) and value:
        with contextlib.suppress(BadLineError):  # no list of dialogues
            records = [record_of(item, f"{source}:{n}") for n, item in enumerate(value, 1)]
            if not search or all(record.messages for record in records):  # what stands beside a text is searched too
                return ReadResult(records=records)
    result = ReadResult()
    whole = isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
    for number, item in enumerate(value if whole else [value], 1):
        layout = Layout(source)
        for line in _lines(item, "", 0):
            layout.item(line)
        if layout.text():
            title = _title(item) or (f"{file_title(source)} {number}" if whole else file_title(source))
            result.documents.append(Document(layout.text(), source, title, {"item": number} if whole else {}))
    if not result.documents:
        result.bad.append(BadRecord(source, t("empty")))
    return result


def _title(item: Any) -> str:
    if isinstance(item, dict):
        named = {str(key).lower(): value for key, value in item.items()}
        found = next((named[key] for key in _TITLES if isinstance(named.get(key), str)), "")
        return one_line(found)[:120]
    return ""


def _lines(value: Any, path: str, depth: int) -> Iterator[str]:
    """`endereço › cidade: Recife` for every value that is no container."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _lines(inner, f"{path} › {key}" if path else str(key), depth + 1)
    elif isinstance(value, list):
        if all(not isinstance(inner, dict | list) for inner in value):
            if value:
                yield _line(path, ", ".join(map(_word, value)))
            return
        for inner in value:
            yield from _lines(inner, path, depth + 1)
    elif value is not None and _word(value).strip():
        yield _line(path, _word(value))


def _line(path: str, text: str) -> str:
    return f"{path}: {text}" if path else text


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return t("yes") if value else t("no")
    return "" if value is None else str(value)
