"""The models that a person has: by name in the models folder, or anywhere by path. Reads manifests only, no torch."""

from __future__ import annotations

import contextlib
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna_kernel.base import paths
from luna_kernel.base.durable import recover
from luna_kernel.base.errors import LunaError, StorageError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of
from luna_kernel.plugins.manifest import FILE, Manifest

t = catalogue(__package__)

DEMO = "demo"
"""The name of the demo model, which lies in the cache; a model of the models folder may have it instead."""


@dataclass(frozen=True)
class ModelEntry:
    """One model of the models folder."""

    name: str
    folder: Path
    manifest: Manifest | None
    """None when it cannot be read."""
    fault: str = ""
    """Why it cannot be read."""
    bytes: int = 0
    """Size of its files together."""
    modified: float = 0.0
    """When its manifest was written, seconds since 1970."""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        data: dict[str, Any] = {
            "name": self.name,
            "folder": str(self.folder),
            "bytes": self.bytes,
            "modified": self.modified,
            "ok": self.manifest is not None,
        }
        if self.manifest is None:
            return {**data, "fault": self.fault}
        return {
            **data,
            "kernel": self.manifest.kernel,
            "preset": self.manifest.blueprint.get("preset", ""),
            "plugins": self.manifest.plugins_needed(),
            "trained": bool(self.manifest.training),
        }


def model_path(name: str) -> Path:
    """The folder that a model of this name has or would get.

    Args:
        name: a name, whose folder is in the models folder, or a path (with a separator, `.` or `~`).

    Raises:
        UsageError: the name cannot be a folder's.
    """
    if any(mark in name for mark in "/\\") or name.startswith((".", "~")):
        return Path(name).expanduser()
    if not paths.is_safe_name(name):
        raise UsageError(t("models.bad_name", name=name[:80]), hint=t("models.bad_name.hint"))
    return paths.models_dir() / name


def find_model(name: str) -> Path:
    """The folder of a model that is there; an interrupted save is put right first. `demo` is the demo model that was
    used last.

    Raises:
        UsageError: there is none; names the nearest and those that there are.
    """
    folder = model_path(name)
    with contextlib.suppress(StorageError):  # a folder that may only be read has nothing to put right
        recover(folder, marker=FILE)
    if (folder / FILE).is_file():
        return folder
    demo = _last_demo() if name == DEMO else None
    if demo is not None:
        return demo
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(t("models.torn", folder=folder), hint=t("models.torn.hint"))
    names = [entry.name for entry in list_models()]
    near = difflib.get_close_matches(name, names, n=1)
    text = t("models.unknown", name=name[:200])
    if near:
        text += " " + t("models.nearest", name=near[0])
    hint = t("models.known", names=", ".join(names)) if names else t("models.none")
    raise UsageError(text, hint=hint)


def name_of(folder: Path) -> str:
    """What a person calls the model of this folder."""
    folder = folder.resolve()
    return DEMO if folder.parent == _demos().resolve() else folder.name


def _demos() -> Path:
    return paths.cache_dir() / DEMO


def _last_demo() -> Path | None:
    """Of the demo models, one for each set of layers, the one that was used last."""
    whole = [path.parent for path in _demos().glob(f"*/{FILE}")]
    return max(whole, key=lambda folder: folder.stat().st_mtime, default=None)


def list_models() -> list[ModelEntry]:
    """All models of the models folder by name, then the demo model; what cannot be read is listed with its fault."""
    demo = _last_demo()
    entries = _of_models_folder()
    if demo is not None and all(entry.name != DEMO for entry in entries):
        entries.append(entry_of(DEMO, demo))
    return entries


def _of_models_folder() -> list[ModelEntry]:
    root = paths.models_dir()
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and paths.is_safe_name(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(t("models.unreadable", folder=root, reason=reason_of(error))) from error
    return [entry_of(path.name, path) for path in folders if ".luna-" not in path.name]


def entry_of(name: str, folder: Path) -> ModelEntry:
    """One model's entry."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        manifest = Manifest.read(folder)
    except LunaError as error:
        return ModelEntry(name, folder, None, error.text, size)
    return ModelEntry(name, folder, manifest, "", size, (folder / FILE).stat().st_mtime)
