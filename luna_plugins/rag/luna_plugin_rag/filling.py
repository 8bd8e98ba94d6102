"""From files to a store: what is new or changed is read and cut, what is gone is taken out, the rest is left alone.

Files are put into the store a second's worth at a time, so a death leaves whole files in or out. What is to be
remembered of how they were read is written after the last of them: a death before that leaves it to be done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.knowledge import CutFile, KnowledgeStore
from luna_kernel.contracts.retrievers import Chunker
from luna_kernel.plugins.registry import Registry

from .config import KnowledgeConfig
from .reading import Changes, Listing, ReadFile, compare, read

t = catalogue(__package__)

Progress = Callable[[str, int, int, str], None]
"""Told (`reading`, files done, files to do, source), then (`indexing`, chunks done, chunks to do, name of index), then
(`calibrating`, questions asked, questions to ask, "")."""

_FLUSH_SECONDS, _FLUSH_FILES, _FLUSH_CHARS = 1.0, 200, 16_000_000


@dataclass
class Summary:
    """What a synchronisation found and did."""

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    """Files of which nothing is in the knowledge base, with the reason."""
    partly: dict[str, list[str]] = field(default_factory=dict)
    """Files of which some places could not be read, with the reasons."""
    files: int = 0
    documents: int = 0
    chunks: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The summary as `--json` prints it."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


class Filler:
    """Fills stores in the way that a config says.

    Raises:
        UsageError: the chunker is unknown.
        ConfigError: its settings are wrong.
    """

    def __init__(self, registry: Registry, config: KnowledgeConfig) -> None:
        self._registry = registry
        self._config = config
        component = registry.get("chunker", config.chunker["name"], where="knowledge.chunker")
        made_with = component.make_config(config.chunker, where="knowledge.chunker")
        self._chunker: Chunker = component.load()(made_with)
        settings = {} if made_with is None else made_with.model_dump(mode="json")
        self._fingerprint = json.dumps([component.name, component.version, settings], sort_keys=True)

    def fill(
        self,
        store: KnowledgeStore,
        listing: Listing,
        paths: Sequence[Path],
        *,
        progress: Progress | None = None,
        rebuild: bool = False,
    ) -> Summary:
        """Make the store hold just the documents that are listed; only whoever holds its lock may.

        Args:
            store: it.
            listing: the files.
            paths: what they were found by, for errors.
            progress: see `Progress`.
            rebuild: read everything anew.

        Raises:
            UsageError: nothing at all could be read; what the store holds of files that are gone is then kept.
            StorageError: see `KnowledgeStore`.
        """
        self._cut_anew_if_settings_changed(store)
        mend = self._setting(store, "mend_mojibake", default=False)
        max_mb = self._setting(store, "max_file_mb", default=64)
        rebuild = rebuild or mend != json.loads(store.meta("mend_mojibake") or "false")
        changes = compare(listing, store.files(), max_mb * 1_000_000, anew=rebuild)
        store.restamp(changes.touched)
        states = changes.new + changes.changed
        reading = read(states, self._registry, max_bytes=max_mb * 1_000_000, mend_mojibake=mend)
        self._take(store, reading, len(states), progress)
        for name, value in (("mend_mojibake", mend), ("max_file_mb", max_mb)):
            store.set_meta(name, json.dumps(value))
        skipped = {**listing.skipped, **changes.unreadable}
        if store.files().keys() - store.files_without_documents() <= set(changes.removed):
            # Nothing of what is named can be read: a folder that is not mounted must not empty the base.
            raise _nothing_read(paths, _summary(store, changes, skipped).skipped)
        store.remove(changes.removed)
        return _summary(store, changes, skipped)

    def _cut_anew_if_settings_changed(self, store: KnowledgeStore) -> None:
        if store.meta("chunker") == self._fingerprint:
            return
        if store.counts()["chunks"]:
            store.cut_again(self._chunker.chunk, self._fingerprint)
        else:
            store.set_meta("chunker", self._fingerprint)

    def _setting(self, store: KnowledgeStore, name: str, *, default: Any) -> Any:
        """What the config says, else what was said last."""
        given = getattr(self._config, name)
        if given is not None:
            return given
        found = store.meta(name)
        return default if found is None else json.loads(found)

    def _take(self, store: KnowledgeStore, reading: Iterable[ReadFile], total: int, progress: Progress | None) -> None:
        """Take in what is read, and commit now and then, so that a death costs a second of work."""
        pending: list[CutFile] = []
        chars, since = 0, time.monotonic()
        for done, (state, documents, reasons) in enumerate(reading, 1):
            cut = [(document, self._chunker.chunk(document)) for document in documents]
            pending.append((replace(state, reasons=tuple(reasons)), cut))
            chars += sum(len(document.text) for document in documents)
            if len(pending) >= _FLUSH_FILES or chars > _FLUSH_CHARS or time.monotonic() - since > _FLUSH_SECONDS:
                store.put(pending)
                pending, chars, since = [], 0, time.monotonic()
            if progress is not None:
                progress("reading", done, total, state.source)
        store.put(pending)


def _summary(store: KnowledgeStore, changes: Changes, skipped: dict[str, str]) -> Summary:
    files, empty = store.files(), store.files_without_documents()
    skipped = {**skipped, **{source: "; ".join(files[source].reasons) or t("read.nothing") for source in empty}}
    same = {*changes.unchanged, *(state.source for state in changes.touched)}
    return Summary(
        added=[state.source for state in changes.new if state.source not in empty],
        updated=[state.source for state in changes.changed if state.source not in empty],
        removed=changes.removed,
        unchanged=len(same - empty),
        skipped=dict(sorted(skipped.items())),
        partly={
            source: list(state.reasons) for source, state in files.items() if state.reasons and source not in empty
        },
        **store.counts(),
    )


def _nothing_read(paths: Sequence[Path], skipped: dict[str, str]) -> UsageError:
    where = ", ".join(str(path) for path in paths)
    if not skipped:
        return UsageError(t("docs.empty", path=where), hint=t("docs.empty.hint"))
    lines = [f"  {source}: {reason}" for source, reason in list(skipped.items())[:5]]
    if len(skipped) > 5:
        lines.append(t("docs.more", count=len(skipped) - 5))
    return UsageError("\n".join([t("docs.nothing_read", path=where), *lines]), hint=t("docs.empty.hint"))
