"""Files, documents and chunks as rows of the tables, without the id of the knowledge base; texts without NUL."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.knowledge import FileState, lines_of, text_hash

_NUL = re.compile("[\0\x1a]")
_ESCAPE = re.compile("\x1a[0\x1a]")


def file_row(number: int, state: FileState) -> tuple[Any, ...]:
    """A row of `knowledge_files`."""
    stamps = (state.sha256, state.size, state.mtime_ns, state.ctime_ns, state.seen_ns)
    return (number, escaped(state.source), escaped(state.path), *stamps, json.dumps(state.reasons))


def document_row(number: int, file_id: int, document: Document) -> tuple[Any, ...]:
    """A row of `knowledge_documents`."""
    texts = [escaped(text) for text in (document.source, document.title, document.text)]
    return (number, file_id, *texts, _json(document.metadata), text_hash(document.text))


def chunk_rows(first: int, document_id: int, document: Document, chunks: Sequence[Chunk]) -> list[tuple[Any, ...]]:
    """Rows of `knowledge_chunks`; their ids begin with `first`."""
    return [
        (number, document_id, c.start, c.end, line, escaped(c.heading), escaped(c.text), _json(c.metadata))
        for number, (c, line) in enumerate(zip(chunks, lines_of(document, chunks), strict=True), first)
    ]


def _json(value: object) -> str:
    """JSON without a NUL: it has an escape of its own for that."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def escaped(text: str) -> str:
    """A text without NUL, from which `plain` makes the same again: NUL is SUB 0, SUB is SUB SUB."""
    return _NUL.sub(lambda found: "\x1a0" if found[0] == "\0" else "\x1a\x1a", text)


def plain(text: str) -> str:
    """What `escaped` was given."""
    return _ESCAPE.sub(lambda found: "\0" if found[0] == "\x1a0" else "\x1a", text)
