"""The indexes of a knowledge base: derived from its database, checked before they are read, made anew when in doubt.

Each retriever has a folder. Its `index.json`, written last, names the knowledge base, the retriever with its version
and settings, and the SHA-256 of every file. Files are compared before a retriever opens them, large ones block by
block, each block before its first use (`luna_kernel.base.block_sums`). Which chunks an index lacks or has too much
follows from the ids; it is brought up to date by adding and removing them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna_kernel.base import durable, integrity
from luna_kernel.base.block_sums import SUFFIX
from luna_kernel.base.errors import IntegrityError, StorageError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.knowledge import KnowledgeStore
from luna_kernel.contracts.retrievers import OtherEncoderError, Retriever
from luna_kernel.plugins.registry import Component, Registry

t = catalogue(__package__)

Progress = Callable[[int, int, str], None]
"""Told (chunks done, chunks to do, name of the index) while an index takes chunks in."""

FORMAT = 1
_MARKER, _DATA = "index.json", "data"
_BATCH = 2000


@dataclass(frozen=True)
class IndexCondition:
    """How the files of one index are, without opening it for search."""

    name: str
    state: str
    """`whole`, `absent`, `other` (other settings, version or knowledge base), `damaged`, `behind`."""
    reason: str = ""
    """Why it is damaged."""
    missing: int = 0
    """Chunks that it lacks."""
    extra: int = 0
    """Chunks that it has and the database has not."""
    bytes: int = 0
    settings: Mapping[str, Any] | None = None
    """What its manifest says that it was made with."""


@dataclass
class Index:
    """One retriever of a knowledge base, with what it was made of."""

    name: str
    component: Component
    settings: dict[str, Any]
    retriever: Retriever
    saved: bool
    """Whether the folder holds just this state."""


class Indexes:
    """The retrievers of one knowledge base.

    Args:
        folder: where their folders lie.
        store: the truth.
        registry: where the retrievers are.
        nodes: the retrievers as nodes.
        say: told when an index that was damaged, is of other settings, or is not there is made anew.

    Raises:
        UsageError: a retriever is unknown, or its settings are wrong.
    """

    def __init__(
        self,
        folder: Path,
        store: KnowledgeStore,
        registry: Registry,
        nodes: tuple[Mapping[str, Any], ...],
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._store = store
        self._registry = registry
        self._say = say
        self._components = [self._component(node) for node in nodes]
        self._indexes: list[Index] = []
        self._left_out: list[tuple[Component, Any]] = []
        """Retrievers without an index, which a search does without."""
        self._generation = -1
        self._progress: Progress | None = None

    def current(self, *, writing: bool = False) -> list[Index]:
        """The retrievers, up to date with the database.

        Args:
            writing: an index that was made with another encoder is made anew, which is said; without it, an error. One
                that is not there is made; without it, left out, which is said, as long as there is another: a plugin
                that was installed later would have each search make its index, for minutes.

        Raises:
            UsageError: an index was made with another encoder.
        """
        if not self._indexes:
            self._open_all(writing=writing)
        elif writing and self._left_out:
            self._indexes += [self._empty(component, config) for component, config in self._left_out]
            self._left_out, self._generation = [], -1
        generation = self._store.generation
        if generation != self._generation:
            wanted = self._store.chunk_ids()
            self._indexes = [self._follow(index, wanted) for index in self._indexes]
            self._generation = generation
        return self._indexes

    def _open_all(self, *, writing: bool) -> None:
        opened = [self._open(component, config, writing=writing) for component, config in self._components]
        absent = [pair for pair, index in zip(self._components, opened, strict=True) if index is None]
        there = [index for index in opened if index is not None]
        if writing or not there:
            if absent and not writing and self._store.counts()["chunks"]:
                self._tell("index.absent", absent)
            self._indexes = there + [self._empty(component, config) for component, config in absent]
        else:
            self._tell("index.left_out", absent)
            self._indexes, self._left_out = there, absent

    def _tell(self, key: str, pairs: Sequence[tuple[Component, Any]]) -> None:
        for component, _ in pairs:
            self._say(t(key, name=component.name))

    def save(self, progress: Progress | None = None) -> None:
        """Write the indexes that differ from what is on the disk; only whoever holds the lock may."""
        self._progress = progress
        try:
            for index in self.current(writing=True):
                if not index.saved:
                    self._write(index)
                    index.saved = True
                index.retriever.placed()
        finally:
            self._progress = None

    def doubt(self, error: IntegrityError) -> None:
        """Make anew the indexes whose files are damaged, after a search that met damage.

        Raises:
            IntegrityError: `error`, if none is.
        """
        wanted, found = self._store.chunk_ids(), False
        for place, index in enumerate(self._indexes):
            config = index.component.make_config(index.settings)
            if self._condition(index.component, config, wanted).state == "damaged":
                self._say(t("index.damaged", name=index.name, reason=error.text))
                self._indexes[place] = self._anew(index, wanted)
                found = True
        if not found:
            raise error

    def close(self) -> None:
        """Let go of what the retrievers hold outside memory."""
        for index in self._indexes:
            index.retriever.close()

    def made_of(self) -> list[list[Any]]:
        """Name, version and settings of each retriever that a search uses; nothing is opened for that."""
        there = [pair for pair in self._components if (self._folder / pair[0].name / _MARKER).is_file()]
        return [
            [component.name, component.version, _settings(config)] for component, config in there or self._components
        ]

    def conditions(self) -> list[IndexCondition]:
        """How the files of each index are; nothing is made anew, nothing said."""
        wanted = self._store.chunk_ids()
        return [self._condition(component, config, wanted) for component, config in self._components]

    def _condition(self, component: Component, config: Any, wanted: set[int]) -> IndexCondition:
        folder, name = self._folder / component.name, component.name
        settings = _settings(config)
        if not (folder / _MARKER).is_file():
            return IndexCondition(name, "absent", missing=len(wanted))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        try:
            manifest = self._check(folder, component, settings, whole=True)
            if manifest is None:
                found = integrity.read_json(folder / _MARKER)
                return IndexCondition(name, "other", bytes=size, settings=found.get("settings"))
            opened = component.load().load(config, folder / _DATA, self._registry)
            held = opened.ids()
            opened.close()
        except OtherEncoderError:
            return IndexCondition(name, "other", bytes=size, settings=settings)
        except IntegrityError as error:
            return IndexCondition(name, "damaged", reason=error.text, bytes=size)
        missing, extra = len(wanted - held), len(held - wanted)
        state = "behind" if missing or extra else "whole"
        return IndexCondition(name, state, "", missing, extra, size, manifest["settings"])

    # --- one index -------------------------------------------------------------------------------------------------

    def _component(self, node: Mapping[str, Any]) -> tuple[Component, Any]:
        """A retriever and its validated config."""
        component = self._registry.get("retriever", str(node["name"]), where="knowledge.retrievers")
        return component, component.make_config(node, where=f"knowledge.retrievers.{component.name}")

    def _empty(self, component: Component, config: Any) -> Index:
        return Index(
            component.name, component, _settings(config), component.load()(config, self._registry), saved=False
        )

    def _open(self, component: Component, config: Any, *, writing: bool) -> Index | None:
        """The index as it lies in its folder, an empty one where that cannot be used, None where there is none."""
        name = component.name
        settings, folder = _settings(config), self._folder / name
        with contextlib.suppress(StorageError):  # a read-only place: what lies there can still be read
            durable.recover(folder, marker=_MARKER)
        try:
            if not (folder / _MARKER).is_file():
                return None
            manifest = self._check(folder, component, settings)
            if manifest is not None:
                loaded = component.load().load(config, folder / _DATA, self._registry)
                return Index(name, component, settings, loaded, saved=True)
            self._tell_other(folder, component, settings, writing=writing)
        except OtherEncoderError as error:  # the same settings, and what they name is no longer the same
            if not writing:
                raise UsageError(
                    t("index.other_weights", name=name, reason=error.text), hint=t("index.other_encoder.hint")
                ) from error
            self._say(t("index.other_weights.anew", name=name, reason=error.text))
        except IntegrityError as error:
            self._say(t("index.damaged", name=name, reason=error.text))
        return self._empty(component, config)

    def _tell_other(self, folder: Path, component: Component, settings: dict[str, Any], *, writing: bool) -> None:
        """Say that an index was made otherwise: a search makes it anew in memory, each time, until it is written.

        Vectors of one encoder mean nothing to another: a search stops there. Of a knowledge base that was here before
        nothing need be said to whoever fills the one that is here now.
        """
        manifest = integrity.read_json(folder / _MARKER)
        if writing and manifest.get("knowledge") != self._store.id:
            return
        made_with = manifest.get("settings")
        made_with = made_with if isinstance(made_with, dict) else {}
        found, expected = made_with.get("encoder"), settings.get("encoder")
        if found != expected:
            fields = {"name": folder.name, "found": _encoder_name(found), "expected": _encoder_name(expected)}
            if not writing:
                raise UsageError(t("index.other_encoder", **fields), hint=t("index.other_encoder.hint"))
            self._say(t("index.other_encoder.anew", **fields))
            return
        now = {**settings, "version": component.version}
        before = {**made_with, "version": manifest.get("version")}
        changes = [f"{key} {before.get(key)} → {now.get(key)}" for key in now if before.get(key) != now[key]]
        reason = ", ".join(changes) or t("index.other.elsewhere")
        self._say(t("index.other.anew" if writing else "index.other", name=folder.name, reason=reason))

    def _check(
        self, folder: Path, component: Component, settings: dict[str, Any], *, whole: bool = False
    ) -> dict[str, Any] | None:
        """The manifest, if the index is whole; None if it is of other settings or another knowledge base.

        Files that are compared block by block as they are used are compared here only if `whole`.

        Raises:
            IntegrityError: it is damaged.
        """
        manifest = integrity.read_json(folder / _MARKER)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
            raise IntegrityError(t("index.bad_manifest", path=folder / _MARKER))
        made_of = {key: manifest.get(key) for key in ("format", "knowledge", "retriever", "version", "settings")}
        if made_of != self._made_of(component, settings):
            return None
        integrity.check(folder, manifest["files"], blocks=None if whole else SUFFIX)
        return manifest

    def _made_of(self, component: Component, settings: dict[str, Any]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "knowledge": self._store.id,
            "retriever": component.name,
            "version": component.version,
            "settings": settings,
        }

    def _follow(self, index: Index, wanted: set[int]) -> Index:
        """Bring an index to hold just the chunks of the database."""
        held = index.retriever.ids()
        gone, new = held - wanted, wanted - held
        if not gone and not new:
            return index
        if len(gone) > len(wanted):  # hardly anything stays: making it anew is cheaper and leaves nothing behind
            return self._anew(index, wanted)
        index.saved = False
        try:
            index.retriever.remove(sorted(gone))
            self._add(index.name, index.retriever, new)
        except IntegrityError as error:
            self._say(t("index.damaged", name=index.name, reason=error.text))
            return self._anew(index, wanted)
        return self._anew(index, wanted) if index.retriever.wants_rebuild else index

    def _anew(self, index: Index, wanted: set[int]) -> Index:
        config = index.component.make_config(index.settings)
        retriever = index.component.load()(config, self._registry)
        self._add(index.name, retriever, wanted, at_once=True)
        index.retriever.close()
        return Index(index.name, index.component, index.settings, retriever, saved=False)

    def _add(self, name: str, retriever: Retriever, ids: set[int], *, at_once: bool = False) -> None:
        """Add chunks; all at once to an empty retriever that learns from what it is given first."""
        ordered = sorted(ids)
        whole = not retriever.takes_batches and (at_once or not len(retriever))
        size = max(len(ordered), 1) if whole else _BATCH
        for begin in range(0, len(ordered), size):
            if self._progress is not None:
                self._progress(begin, len(ordered), name)
            rows = list(self._store.texts(ordered[begin : begin + size]))
            retriever.add([chunk_id for chunk_id, _ in rows], [text for _, text in rows])

    def _write(self, index: Index) -> None:
        with durable.replace_folder(self._folder / index.name, marker=_MARKER) as new:
            durable.make_folder(new / _DATA)
            former = self._folder / index.name / _DATA
            if former.is_dir():
                index.retriever.replaces(former)
            try:
                index.retriever.save(new / _DATA)
            except IntegrityError as error:  # what it still had to read from the former files
                self._say(t("index.damaged", name=index.name, reason=error.text))
                index.retriever = self._anew(index, self._store.chunk_ids()).retriever
                index.retriever.save(new / _DATA)
            manifest = self._made_of(index.component, index.settings)
            manifest["chunks"] = len(index.retriever)
            manifest["files"] = integrity.seal(new, exclude=[_MARKER])
            durable.write_json(new / _MARKER, manifest)


def _settings(config: Any) -> dict[str, Any]:
    return {} if config is None else dict(config.model_dump(mode="json"))


def _encoder_name(node: Any) -> str:
    """`lsa (dimension 64)` of an encoder's node."""
    if not isinstance(node, Mapping):
        return "?"
    fields = ", ".join(f"{key} {value}" for key, value in node.items() if key != "name")
    return f"{node.get('name', '?')} ({fields})" if fields else str(node.get("name", "?"))
