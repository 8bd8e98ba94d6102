"""The chunks of a knowledge base as text: JSON lines for programs, Markdown for people."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator
from typing import Any

from luna_kernel.contracts.data import Chunk, Document

from .knowledge_base import KnowledgeBase


def records(knowledge: KnowledgeBase) -> Iterator[dict[str, Any]]:
    """One object per chunk, document by document: `document.text[start:end] == text`."""
    for number, (document, chunks) in enumerate(knowledge.store.whole_documents(), 1):
        for chunk in chunks:
            yield _record(number, document, chunk)


def _record(number: int, document: Document, chunk: Chunk) -> dict[str, Any]:
    metadata = {**document.metadata, **chunk.metadata}
    pages = metadata.pop("page_starts", [])
    fixed = metadata.get("line")
    return {
        "source": document.source,
        "title": document.title,
        "document": number,
        "start": chunk.start,
        "end": chunk.end,
        "line": fixed if isinstance(fixed, int) else document.text.count("\n", 0, chunk.start) + 1,
        "page": bisect.bisect_right(pages, chunk.start),
        "heading": chunk.heading,
        "text": chunk.text,
        "metadata": metadata,
    }


def jsonl(knowledge: KnowledgeBase) -> Iterator[str]:
    """One line of JSON per chunk."""
    for record in records(knowledge):
        yield json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def markdown(knowledge: KnowledgeBase) -> Iterator[str]:
    """A section per document, a part per chunk with its place; texts are quoted: their own marks stay theirs."""
    seen = 0
    for record in records(knowledge):
        if record["document"] != seen:
            seen = record["document"]
            title = "" if record["title"] in ("", record["source"]) else f" · {record['title']}"
            yield f"{'' if seen == 1 else chr(10)}# {record['source']}{title}\n"
        where = f"{record['start']}–{record['end']}"
        heading = f"{record['heading']} · " if record["heading"] else ""
        quoted = "".join(f"> {line}".rstrip() + "\n" for line in record["text"].strip().split("\n"))
        yield f"\n## {heading}{where}\n\n{quoted}"
