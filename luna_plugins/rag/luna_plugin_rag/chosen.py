"""What was chosen for a knowledge base and is remembered: its store says it, and a copy beside its indexes.

The copy is for the day on which the store is damaged or lost: what is then made anew of the documents is made in the
same way.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import IntegrityError
from luna_kernel.contracts.knowledge import KnowledgeStore

from .config import KnowledgeConfig

COPY = Path("index", "chosen.json")
_NAMES = ("retrievers", "mend_mojibake", "max_file_mb")
"""Fields of `KnowledgeConfig` that a store remembers under these names."""


def keep_copy(folder: Path, store: KnowledgeStore) -> None:
    """Write beside the indexes what the store remembers, where that is not there yet."""
    chosen = {name: json.loads(found) for name in _NAMES if (found := store.meta(name)) is not None}
    if _read(folder) != chosen:
        durable.make_folder((folder / COPY).parent)
        durable.write_json(folder / COPY, chosen)


def as_chosen(folder: Path, config: KnowledgeConfig) -> KnowledgeConfig:
    """`config` with what was chosen before where it says nothing; as it is where no copy can be read."""
    chosen = {name: value for name, value in _read(folder).items() if name in _NAMES and getattr(config, name) is None}
    with contextlib.suppress(ValidationError):
        found = KnowledgeConfig(**chosen)
        return config.model_copy(update={name: getattr(found, name) for name in chosen})
    return config


def _read(folder: Path) -> dict[str, Any]:
    if not (folder / COPY).is_file():
        return {}
    with contextlib.suppress(IntegrityError):
        found = integrity.read_json(folder / COPY)
        return found if isinstance(found, dict) else {}
    return {}
