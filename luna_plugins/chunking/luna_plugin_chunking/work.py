"""Cutting many documents: several processes, and a cache by what was cut and how."""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.paths import cache_dir
from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.retrievers import Chunker
from luna_kernel.plugins.registry import Component

from .config import ChunkConfig

FORMAT = 3
"""Raised when a strategy cuts otherwise than before: older entries of the cache are not used then."""

_made: dict[str, Chunker] = {}


def cut(
    documents: Sequence[Document],
    component: Component,
    config: ChunkConfig,
    *,
    jobs: int = 1,
    cache: bool = True,
    progress: Callable[[], object] = lambda: None,
) -> list[list[Chunk]]:
    """The chunks of each document, in order.

    Args:
        documents: the documents.
        component: the chunker.
        config: its config.
        jobs: processes.
        cache: look for them in the cache, and put new ones there.
        progress: called after each document.
    """
    node = json.dumps([FORMAT, component.target, component.version, config.model_dump(mode="json")], sort_keys=True)
    salt = node + _tokenizer_hash(config)
    found: list[list[Chunk] | None] = [None] * len(documents)
    files = [_cache_file(salt, document) for document in documents]
    for place, file in enumerate(files if cache else []):
        found[place] = _cached(file, documents[place].text)
        if found[place] is not None:
            progress()
    todo = [place for place, chunks in enumerate(found) if chunks is None]
    tasks = [(component.target, type(config), config.model_dump(), documents[place]) for place in todo]
    if min(jobs, len(tasks)) > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context) as pool:
            results = pool.map(_cut_one, tasks, chunksize=max(1, len(tasks) // (4 * jobs)))
            for place, chunks in zip(todo, results, strict=True):
                _keep(found, place, chunks, files[place] if cache else None, progress)
    else:
        for place, task in zip(todo, tasks, strict=True):
            _keep(found, place, _cut_one(task), files[place] if cache else None, progress)
    return [chunks or [] for chunks in found]


def _keep(
    found: list[list[Chunk] | None], place: int, chunks: list[Chunk], file: Path | None, progress: Callable[[], object]
) -> None:
    found[place] = chunks
    if file is not None:
        durable.write_json(file, [[chunk.start, chunk.end, chunk.heading, chunk.metadata] for chunk in chunks])
    progress()


def _cut_one(task: tuple[str, type[ChunkConfig], dict[str, Any], Document]) -> list[Chunk]:
    target, kind, settings, document = task
    key = json.dumps([target, settings], sort_keys=True)
    if key not in _made:
        module, _, name = target.partition(":")
        _made.clear()
        _made[key] = getattr(importlib.import_module(module), name)(kind(**settings))
    return _made[key].chunk(document)


def _tokenizer_hash(config: ChunkConfig) -> str:
    if config.tokenizer is None:
        return ""
    path = Path(config.tokenizer)
    file = path / "tokenizer.json" if path.is_dir() else path
    return integrity.hash_file(file) if file.is_file() else ""


def _cache_file(salt: str, document: Document) -> Path:
    content = f"{salt}\0{document.title}\0{document.text}".encode("utf-8", "surrogatepass")
    name = hashlib.sha256(content).hexdigest()
    return cache_dir() / "chunks" / name[:2] / f"{name}.json"


def _cached(file: Path, text: str) -> list[Chunk] | None:
    if not file.is_file():
        return None
    try:
        return [Chunk(text[a:b], a, b, heading, metadata) for a, b, heading, metadata in integrity.read_json(file)]
    except (IntegrityError, TypeError, ValueError):
        return None  # damaged: cut again
