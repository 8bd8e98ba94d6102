"""A knowledge base: a store of documents, which is the truth, and a folder with the indexes derived from it.

    kb = KnowledgeBase.open(folder, registry)
    summary = kb.sync([Path("docs")])
    for passage in kb.search("Qual é o prazo?", 4).passages: ...

Only the process that holds the lock writes; any number search meanwhile. A death at any moment leaves whole files in or
out of the store, and indexes that are brought up to date at the next opening.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.retrievers import Reranker
from luna_kernel.plugins.registry import Registry

from .calibration import Calibration
from .chosen import keep_copy
from .config import KnowledgeConfig
from .filling import Filler, Progress, Summary
from .filters import Condition
from .indexes import IndexCondition, Indexes
from .naming import matching
from .reading import list_files
from .search import Found, Searcher
from .stores import is_knowledge_base, open_store

t = catalogue(__package__)


class KnowledgeBase:
    """One open knowledge base; see the module.

    Args:
        folder: where it lies; made if missing.
        registry: where retrievers, chunker, reranker and readers are.
        config: see `KnowledgeConfig`.
        say: told what people should know: an index that was damaged, is of other settings, or is not there.

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
        self._filler = Filler(registry, self.config)
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
        try:
            return cls(folder, registry, config, **options)
        except IntegrityError as error:
            raise IntegrityError(error.text, hint=t("kb.damaged.hint")) from error

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
            if self.config.retrievers:
                self.store.set_meta("retrievers", json.dumps(self.config.retrievers))
            summary = self._filler.fill(self.store, listing, paths, progress=progress, rebuild=rebuild)
            keep_copy(self.folder, self.store)
            self._save_indexes(progress)
        summary.seconds = time.perf_counter() - begin
        return summary

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """Sources of the files that patterns name; see `naming.matching`."""
        return matching(patterns, sorted(self.store.files()))

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

    def _save_indexes(self, progress: Progress | None = None) -> None:
        self._indexes.save(progress and functools.partial(progress, "indexing"))
        self._searcher.calibrate(progress and functools.partial(progress, "calibrating"))

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


def default_retrievers(registry: Registry) -> tuple[dict[str, Any], ...]:
    """`bm25` and `tfidf`, and `faiss` where it is on."""
    optional = [name for name in ("faiss",) if registry.find("retriever", name)]
    return tuple({"name": name} for name in ("bm25", "tfidf", *optional))
