"""A knowledge base: a store of documents, which is the truth, and a folder with the indexes derived from it.

    kb = KnowledgeBase.open(folder, registry)
    summary = kb.sync([Path("docs")])
    for passage in kb.search("Qual é o prazo?", 4).passages: ...

Only the process that holds the lock writes; any number search meanwhile. A death at any moment leaves whole files in or
out of the store, and indexes that are brought up to date at the next opening.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.paths import data_dir, is_safe_name
from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.knowledge import FileState
from luna_kernel.contracts.retrievers import Chunker, Reranker
from luna_kernel.data.portuguese import fold
from luna_kernel.plugins.registry import Registry

from .calibration import Calibration
from .config import KnowledgeConfig
from .filters import Condition
from .indexes import IndexCondition, Indexes
from .reading import Changes, ReadFile, compare, list_files, read
from .search import Found, Searcher
from .stores import is_knowledge_base, open_store

t = catalogue(__package__)

Progress = Callable[[str, int, int, str], None]
"""Told (`reading`, files done, files to do, source), then (`indexing`, chunks done, chunks to do, name of index)."""

_COMPARED = 20_000
"""Sources at most that a name without a match is compared with."""
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
        return {**self.__dict__, "seconds": round(self.seconds, 3)}


class KnowledgeBase:
    """One open knowledge base; see the module.

    Args:
        folder: where it lies; made if missing.
        registry: where retrievers, chunker, reranker and readers are.
        config: see `KnowledgeConfig`.
        say: told what people should know: an index that was damaged and is made anew.

    Raises:
        UsageError: the folder holds something else, or a newer format; a component is unknown.
        IntegrityError: the database is damaged.
    """

    def __init__(
        self,
        folder: Path,
        registry: Registry,
        config: KnowledgeConfig | None = None,
        *,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.config = config or KnowledgeConfig()
        self._registry = registry
        chunker = registry.get("chunker", self.config.chunker["name"], where="knowledge.chunker")
        chunker_config = chunker.make_config(self.config.chunker, where="knowledge.chunker")
        self._chunker: Chunker = chunker.load()(chunker_config)
        settings = {} if chunker_config is None else chunker_config.model_dump(mode="json")
        self._fingerprint = json.dumps([chunker.name, chunker.version, settings], sort_keys=True)
        reranker = self._reranker()
        self.store = open_store(folder, registry, self.config.store)
        try:
            nodes = self.config.retrievers or self._remembered() or default_retrievers(registry)
            self._indexes = Indexes(folder / "index", self.store, registry, nodes, say)
        except BaseException:
            self.store.close()
            raise
        self._searcher = Searcher(self.store, self._indexes, reranker, self.config)

    def _remembered(self) -> tuple[dict[str, Any], ...] | None:
        """The retrievers that were chosen when it was filled; None where none were."""
        found = self.store.meta("retrievers")
        return tuple(json.loads(found)) if found else None

    def _reranker(self) -> Reranker | None:
        if self.config.reranker is None:
            return None
        component = self._registry.get("reranker", self.config.reranker["name"], where="knowledge.reranker")
        made: Reranker = component.load()(component.make_config(self.config.reranker, where="knowledge.reranker"))
        return made

    @classmethod
    def open(
        cls, folder: Path, registry: Registry, config: KnowledgeConfig | None = None, **options: Any
    ) -> KnowledgeBase:
        """Open one that is there.

        Raises:
            UsageError: there is none; and see the class.
        """
        if not is_knowledge_base(folder):
            raise UsageError(t("kb.missing", path=folder), hint=t("kb.missing.hint"))
        return cls(folder, registry, config, **options)

    def close(self) -> None:
        """Close the database, and what the retrievers hold."""
        self._indexes.close()
        self.store.close()

    def __enter__(self) -> KnowledgeBase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """How many chunks there are."""
        return self.store.counts()["chunks"]

    # --- filling ---------------------------------------------------------------------------------------------------

    def sync(
        self, paths: Sequence[Path], *, progress: Progress | None = None, wait: float = 30.0, rebuild: bool = False
    ) -> Summary:
        """Make the knowledge base hold just the documents at `paths`; what has not changed is not read again.

        Args:
            paths: folders and files.
            progress: see `Progress`.
            wait: seconds to wait for another process that is writing.
            rebuild: read everything anew.

        Raises:
            UsageError: a path does not exist; nothing at all could be read; another process keeps writing.
            StorageError: the disk refused; what was there before is whole.
        """
        begin = time.perf_counter()
        listing = list_files(paths, self._registry)
        with self.store.lock(wait=wait):
            self._cut_anew_if_settings_changed()
            if self.config.retrievers:
                self.store.set_meta("retrievers", json.dumps(self.config.retrievers))
            mend, max_mb = self._setting("mend_mojibake", default=False), self._setting("max_file_mb", default=64)
            rebuild = rebuild or mend != json.loads(self.store.meta("mend_mojibake") or "false")
            known = {} if rebuild else self.store.files()
            changes = compare(listing, known, max_mb * 1_000_000)
            if rebuild:
                changes.removed = [source for source in self.store.files() if source not in listing.files]
            self.store.restamp(changes.touched)
            states = changes.new + changes.changed
            reading = read(states, self._registry, max_bytes=max_mb * 1_000_000, mend_mojibake=mend)
            self._take(reading, len(states), progress)
            for name, value in (("mend_mojibake", mend), ("max_file_mb", max_mb)):
                self.store.set_meta(name, json.dumps(value))  # not before all is read: a death leaves it to be done
            skipped = {**listing.skipped, **changes.unreadable}
            if self.store.files().keys() - self.store.files_without_documents() <= set(changes.removed):
                # Nothing of what is named can be read: a folder that is not mounted must not empty the base.
                raise _nothing_read(paths, self._summary(changes, skipped).skipped)
            self.store.remove(changes.removed)
            summary = self._summary(changes, skipped)
            self._save_indexes(None if progress is None else functools.partial(progress, "indexing"))
        summary.seconds = time.perf_counter() - begin
        return summary

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """Sources of the files that a pattern names: a path, a folder, or a glob (`*` also crosses `/`).

        Raises:
            UsageError: a pattern matches nothing.
        """
        sources = sorted(self.store.files())
        found: set[str] = set()
        for pattern in patterns:
            plain = pattern.removeprefix("./").rstrip("/")
            fits = [s for s in sources if s == plain or s.startswith(f"{plain}/") or fnmatch.fnmatchcase(s, plain)]
            if not fits:
                near = nearest(plain, sources)
                text = t("kb.remove.none", pattern=pattern[:200])
                text += " " + t("kb.remove.near", names=", ".join(near)) if near else ""
                raise UsageError(text, hint=t("kb.remove.none.hint"))
            found.update(fits)
        return sorted(found)

    def remove(self, sources: Sequence[str], *, wait: float = 30.0) -> int:
        """Remove files with their chunks, from the database and from every index; what is left is not read again.

        Args:
            sources: see `matching`.
            wait: seconds to wait for another process that is writing.

        Returns:
            How many chunks are gone.

        Raises:
            UsageError: another process keeps writing.
            StorageError: the disk refused; what was there before is whole.
        """
        with self.store.lock(wait=wait):
            before = len(self)
            self.store.remove(sources, erase=True)
            self._save_indexes()
        return before - len(self)

    def repair(self, *, wait: float = 30.0) -> None:
        """Write anew the indexes that are damaged, behind or missing.

        Raises:
            UsageError: another process keeps writing.
        """
        with self.store.lock(wait=wait):
            self._save_indexes()

    def _save_indexes(self, progress: Callable[[int, int, str], None] | None = None) -> None:
        self._indexes.save(progress)
        self._searcher.calibrate(progress)

    def calibration(self) -> Calibration | None:
        """How sure an answer must be here, where that was found out with what searches now."""
        return self._searcher.calibration()

    def conditions(self) -> list[IndexCondition]:
        """How the files of each index are."""
        return self._indexes.conditions()

    def ranking(self, name: str, query: str, k: int) -> list[int]:
        """Ids of the chunks that the retriever `name` alone finds, best first."""
        index = next(index for index in self._indexes.current() if index.name == name)
        return [hit.chunk_id for hit in index.retriever.search(query, k)]

    def retrievers(self) -> list[str]:
        """Names of the retrievers."""
        return [index.name for index in self._indexes.current()]

    def frequencies(self, terms: Sequence[str]) -> list[int]:
        """In how many chunks each of some terms is; empty where no retriever knows."""
        return self._searcher.frequencies(terms)

    def _cut_anew_if_settings_changed(self) -> None:
        if self.store.meta("chunker") == self._fingerprint:
            return
        if len(self):
            self.store.cut_again(self._chunker.chunk, self._fingerprint)
        else:
            self.store.set_meta("chunker", self._fingerprint)

    def _setting(self, name: str, *, default: Any) -> Any:
        """What the config says, else what was said last."""
        given = getattr(self.config, name)
        if given is not None:
            return given
        found = self.store.meta(name)
        return default if found is None else json.loads(found)

    def _take(self, reading: Iterable[ReadFile], total: int, progress: Progress | None) -> None:
        """Take in what is read, and commit now and then, so that a death costs a second of work."""
        pending: list[tuple[FileState, list[tuple[Document, list[Chunk]]]]] = []
        chars, since = 0, time.monotonic()
        for done, (state, documents, reasons) in enumerate(reading, 1):
            known = FileState(**{**state.__dict__, "reasons": tuple(reasons)})
            pending.append((known, [(document, self._chunker.chunk(document)) for document in documents]))
            chars += sum(len(document.text) for document in documents)
            if len(pending) >= _FLUSH_FILES or chars > _FLUSH_CHARS or time.monotonic() - since > _FLUSH_SECONDS:
                self.store.put(pending)
                pending, chars, since = [], 0, time.monotonic()
            if progress is not None:
                progress("reading", done, total, state.source)
        self.store.put(pending)

    def _summary(self, changes: Changes, skipped: dict[str, str]) -> Summary:
        files = self.store.files()
        empty = self.store.files_without_documents()
        partly: dict[str, list[str]] = {}
        for source, state in files.items():
            if source in empty:
                skipped[source] = "; ".join(state.reasons) or t("read.nothing")
            elif state.reasons:
                partly[source] = list(state.reasons)
        return Summary(
            added=[state.source for state in changes.new if state.source not in empty],
            updated=[state.source for state in changes.changed if state.source not in empty],
            removed=changes.removed,
            unchanged=len({*changes.unchanged, *(state.source for state in changes.touched)} - empty),
            skipped=dict(sorted(skipped.items())),
            partly=partly,
            **self.store.counts(),
        )

    # --- asking ----------------------------------------------------------------------------------------------------

    def search(
        self, query: str, k: int = 4, *, threshold: float | None = None, filters: Sequence[Condition] = ()
    ) -> Found:
        """The passages that answer `query`, best first; none where all are less likely to than the threshold.

        Args:
            query: the question.
            k: passages at most.
            threshold: least probability that one of the best answers; None for the config's.
            filters: conditions that passages must meet; see `parse_filters`.
        """
        least = self.config.threshold if threshold is None else threshold
        return self._searcher.search(query, k, threshold=least, filters=filters)

    def check_filters(self, filters: Sequence[Condition]) -> None:
        """Refuse conditions on what is known of no passage.

        Raises:
            UsageError: see `luna_plugin_rag.filters.check_names`.
        """
        self._searcher.check(filters)

    def warm_up(self) -> None:
        """Load the indexes now, so that the first question need not wait for them."""
        self._indexes.current()


def nearest(name: str, sources: Sequence[str], count: int = 3) -> list[str]:
    """The sources that may have been meant: those that hold `name`, else those with a part most like it."""
    wanted = fold(name.strip("*/"))
    if not wanted:
        return []
    holding = [source for source in sources if wanted in fold(source)]
    if holding:
        return sorted(holding, key=len)[:count]
    named: dict[str, list[str]] = {}
    for source in sources[:_COMPARED]:
        place = PurePosixPath(fold(source))
        for part in {str(place), place.stem, *place.parts}:
            named.setdefault(part, []).append(source)
    near = difflib.get_close_matches(wanted, named, n=count, cutoff=0.6)
    return list(dict.fromkeys(source for part in near for source in named[part]))[:count]


def default_retrievers(registry: Registry) -> tuple[dict[str, Any], ...]:
    """`bm25` and `tfidf`, and `faiss` where it is on."""
    optional = [name for name in ("faiss",) if registry.find("retriever", name)]
    return tuple({"name": name} for name in ("bm25", "tfidf", *optional))


def place_of(name_or_path: str) -> Path:
    """The folder of a knowledge base that is named (`manuais`) or given as a path (`./kb`, `/tmp/kb`).

    Raises:
        UsageError: neither a safe name nor a path.
    """
    if "/" in name_or_path or name_or_path.startswith((".", "~")):
        return Path(name_or_path).expanduser()
    if not is_safe_name(name_or_path):
        raise UsageError(t("kb.bad_name", name=name_or_path[:80]), hint=t("kb.bad_name.hint"))
    return data_dir() / "knowledge" / name_or_path


def place_for(paths: Sequence[Path]) -> Path:
    """The folder of the knowledge base that belongs to these folders: always the same for the same ones."""
    resolved = [str(path.expanduser().resolve()) for path in paths]
    digest = hashlib.sha256("\n".join(resolved).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    name = re.sub(r"[^a-z0-9]+", "-", fold(Path(resolved[0]).name)).strip("-")[:40] or "docs"
    return data_dir() / "knowledge" / "by-folder" / f"{name}-{digest}"


def _nothing_read(paths: Sequence[Path], skipped: dict[str, str]) -> UsageError:
    where = ", ".join(str(path) for path in paths)
    if not skipped:
        return UsageError(t("docs.empty", path=where), hint=t("docs.empty.hint"))
    lines = [f"  {source}: {reason}" for source, reason in list(skipped.items())[:5]]
    if len(skipped) > 5:
        lines.append(t("docs.more", count=len(skipped) - 5))
    return UsageError("\n".join([t("docs.nothing_read", path=where), *lines]), hint=t("docs.empty.hint"))
