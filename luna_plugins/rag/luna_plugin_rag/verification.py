"""Whether a knowledge base is whole: `luna kb verify`. Nothing is changed, and nothing is repaired in silence.

The database is asked first (pages, references), then every document (its checksum) and every chunk (its offsets against
the document's text, its line), then each index (checksums, and its ids against those of the chunks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luna_kernel.base.integrity import hash_file
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.knowledge import text_hash

from .knowledge_base import KnowledgeBase

t = catalogue(__package__)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong."""

    kind: str
    """`database`, `orphan`, `document`, `chunk`, `index`: damage; `stale`: a file that has changed or is gone since."""
    place: str
    text: str
    mend: str
    """What mends it."""

    @property
    def is_damage(self) -> bool:
        """Whether the knowledge base itself is wrong, and not only behind its files."""
        return self.kind != "stale"

    def to_json(self) -> dict[str, Any]:
        """The finding as `--json` prints it."""
        return asdict(self)


def verify(knowledge: KnowledgeBase, progress: Callable[[], object] = lambda: None) -> list[Finding]:
    """All that is wrong, the gravest first.

    Args:
        knowledge: an open knowledge base.
        progress: called after each document.
    """
    return [*_database(knowledge), *_texts(knowledge, progress), *_indexes(knowledge), *_files(knowledge)]


def _database(knowledge: KnowledgeBase) -> Iterator[Finding]:
    for flaw in knowledge.store.flaws():
        yield Finding(flaw.kind, flaw.place, flaw.text, t("verify.mend.rebuild"))


def _texts(knowledge: KnowledgeBase, progress: Callable[[], object]) -> Iterator[Finding]:
    for stored in knowledge.store.documents():
        document = stored.document
        if stored.sha256 and text_hash(document.text) != stored.sha256:  # one that an older Luna wrote has none
            yield Finding("document", document.source, t("verify.checksum"), t("verify.mend.rebuild"))
        yield from _chunks(document, stored.chunks)
        progress()


def _chunks(document: Document, chunks: list[Chunk]) -> Iterator[Finding]:
    for chunk in chunks:
        place = f"{document.source}: {chunk.start}–{chunk.end}"
        if not 0 <= chunk.start < chunk.end <= len(document.text):
            yield Finding("chunk", place, t("verify.offsets", length=len(document.text)), t("verify.mend.rebuild"))
        elif document.text[chunk.start : chunk.end] != chunk.text:
            yield Finding("chunk", place, t("verify.text"), t("verify.mend.rebuild"))
    if document.text.strip() and not chunks:
        yield Finding("document", document.source, t("verify.no_chunks"), t("verify.mend.rebuild"))


def _indexes(knowledge: KnowledgeBase) -> Iterator[Finding]:
    for item in knowledge.conditions():
        place, mend = f"index/{item.name}", t("verify.mend.index")
        if item.state == "damaged":
            yield Finding("index", place, item.reason, mend)
        elif item.state == "behind":
            text = t("verify.index.behind", missing=item.missing, extra=item.extra)
            yield Finding("index", place, text, mend)
        elif item.state == "other":
            yield Finding("index", place, t("verify.index.other"), mend)
        elif item.state == "absent" and item.missing:
            yield Finding("index", place, t("verify.index.absent"), mend)


def _files(knowledge: KnowledgeBase) -> Iterator[Finding]:
    for source, state in sorted(knowledge.store.files().items()):
        path = Path(state.path)
        try:
            current = path.stat().st_size == state.size and hash_file(path) == state.sha256
        except OSError:
            yield Finding("stale", source, t("verify.gone", path=path), t("verify.mend.index_again"))
            continue
        if not current:
            yield Finding("stale", source, t("verify.changed"), t("verify.mend.index_again"))
