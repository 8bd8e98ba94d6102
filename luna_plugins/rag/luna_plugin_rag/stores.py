"""Which store a knowledge base's folder means.

A folder with `knowledge.sqlite` holds its documents itself. One with `store.json` names the component that holds them,
its settings, and the id of the knowledge base there; it holds no secret, and may be copied to another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.knowledge import KnowledgeStore
from luna_kernel.plugins.registry import Component, Registry

from .store import DATABASE, LOCK

t = catalogue(__package__)

POINTER = "store.json"
DEFAULT = {"name": "sqlite"}
_FORMAT = 1
_NO_CONTENT = (LOCK, "index")


def is_knowledge_base(folder: Path) -> bool:
    """Whether a knowledge base lies there, or is named there."""
    return (folder / DATABASE).is_file() or (folder / POINTER).is_file()


def open_store(folder: Path, registry: Registry, node: Mapping[str, Any] | None) -> KnowledgeStore:
    """Open the store of the knowledge base in `folder`, or make one there.

    Args:
        folder: made if missing.
        registry: where stores are.
        node: the store that is asked for; None: the one that is there, else SQLite.

    Raises:
        UsageError: the folder holds something else, or its documents are in another store than `node`; see
            `KnowledgeStore`.
        IntegrityError: what is there is damaged.
    """
    if (folder / POINTER).is_file():
        return _named(folder, registry, node)
    there = (folder / DATABASE).exists()
    if folder.is_dir() and not there and any(_is_content(item) for item in folder.iterdir()):
        raise UsageError(t("kb.foreign", path=folder), hint=t("kb.foreign.hint"))
    chosen = DEFAULT if node is None else node
    if there and chosen["name"] != DEFAULT["name"]:
        raise _elsewhere(folder, DEFAULT["name"], str(chosen["name"]))
    component, config = _component(registry, chosen)
    if component.name == DEFAULT["name"]:
        made: KnowledgeStore = component.load()(config, folder)
        return made
    with durable.lock(folder / LOCK, wait=30):
        if (folder / POINTER).is_file():  # another process was faster
            return _named(folder, registry, node)
        made = component.load()(config, folder)
        named = {"format": _FORMAT, "base": made.id, "version": component.version, "store": _node(component, config)}
        durable.write_json(folder / POINTER, named)
    return made


def forget_store(folder: Path) -> None:
    """Take out of the folder what holds the documents, or names who does.

    Its indexes stay until others replace them: a retriever may have to be told what it can let go of elsewhere.
    """
    for name in (POINTER, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
        durable.remove_file(folder / name)


def stored_in(folder: Path) -> str | None:
    """The name of the store that the folder names; None where it names none that can be read."""
    try:
        return str(_pointer(folder)["store"]["name"]) if (folder / POINTER).is_file() else None
    except IntegrityError:
        return None


def _named(folder: Path, registry: Registry, node: Mapping[str, Any] | None) -> KnowledgeStore:
    pointer = _pointer(folder)
    component, config = _component(registry, pointer["store"])
    if node is not None:
        wanted = _node(*_component(registry, node))
        if wanted["name"] != component.name or (len(node) > 1 and wanted != _node(component, config)):
            raise _elsewhere(folder, component.name, str(node["name"]))
    if not component.opens(pointer["version"]):
        raise UsageError(t("kb.store_version", path=folder / POINTER, name=component.name), hint=t("kb.newer.hint"))
    opened: KnowledgeStore = component.load()(config, folder, pointer["base"])
    return opened


def _pointer(folder: Path) -> dict[str, Any]:
    pointer = integrity.read_json(folder / POINTER)
    if not isinstance(pointer, dict) or not isinstance(pointer.get("format"), int):
        raise IntegrityError(t("kb.bad_pointer", path=folder / POINTER))
    if pointer["format"] > _FORMAT:
        fields = {"path": folder / POINTER, "found": pointer["format"], "expected": _FORMAT}
        raise UsageError(t("kb.newer", **fields), hint=t("kb.newer.hint"))
    store = pointer.get("store")
    named = isinstance(store, dict) and isinstance(store.get("name"), str)
    if not (named and isinstance(pointer.get("base"), str) and isinstance(pointer.get("version"), int)):
        raise IntegrityError(t("kb.bad_pointer", path=folder / POINTER))
    return pointer


def _component(registry: Registry, node: Mapping[str, Any]) -> tuple[Component, Any]:
    component = registry.get("knowledge_store", str(node["name"]), where="knowledge.store")
    return component, component.make_config(node, where="knowledge.store")


def _node(component: Component, config: Any) -> dict[str, Any]:
    return {"name": component.name, **({} if config is None else config.model_dump(mode="json"))}


def _elsewhere(folder: Path, found: str, wanted: str) -> UsageError:
    return UsageError(t("kb.other_store", path=folder, found=found, wanted=wanted), hint=t("kb.other_store.hint"))


def _is_content(item: Path) -> bool:
    return not item.name.startswith(".") and item.name not in _NO_CONTENT
