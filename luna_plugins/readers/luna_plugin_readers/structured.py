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
from luna_kernel.contracts.data import BadRecord, Document, Reader, ReadResult
from luna_kernel.data.readers import BadLineError, record_of

from .layout import Layout, one_line
from .title import file_title

t = catalogue(__package__)

_TITLES = ("title", "titulo", "título", "name", "nome", "assunto", "subject")
_MAX_DEPTH = 100


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
        except (ValueError, RecursionError) as error:
            raise UsageError(t("damaged", source=source, reason=str(error)), hint=t("damaged.hint")) from None
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
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = one_line(str(error))
            raise UsageError(t("damaged", source=source, reason=reason), hint=t("damaged.hint")) from None
        return _result(values[0] if len(values) == 1 else values, source, search=self.search)


def _text(data: bytes, source: str) -> str:
    if looks_binary(data):
        raise UsageError(t("damaged", source=source, reason=t("html.binary")), hint=t("damaged.hint"))
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
