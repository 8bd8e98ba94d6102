"""`luna.json`, the manifest of a model: what it is made of, and which plugins it needs. Read without torch.

A component is known by kind and name only: its class may move to another module or its plugin to another distribution
and old models still open. A model that is opened without its plugins says everything that is missing at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel import __version__
from luna_kernel.base.errors import IntegrityError, MissingPluginsError, UsageError
from luna_kernel.base.messages import catalogue

from .host import KERNEL
from .preference import preferred_selection
from .selection import Selection

if TYPE_CHECKING:
    from .host import Plugins

t = catalogue(__package__)

FILE = "luna.json"
FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_FILE_PLUGIN = re.compile(r"[^\x00-\x1f\x7f]{1,4000}\.py")
_VERSION = re.compile(r"-|[A-Za-z0-9][A-Za-z0-9.!+_-]{0,63}")
_WORD = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")


@dataclass(frozen=True)
class ComponentRecord:
    """One component of a model, as it was when the model was saved."""

    kind: str
    name: str
    version: int
    plugin: str
    distribution: str
    """The package that brought it; for a plugin in a file, the path of the file."""
    distribution_version: str
    places: tuple[str, ...] = ()
    """Where it sits: `blocks.1.ffn`, `embedding`."""
    weight_share: float = 0.0
    """Its part of all parameters, 0 to 1."""
    needed_for: tuple[str, ...] = ("weights",)
    """`weights`: the model cannot be opened without it; `train`, `chat`: only then."""

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in `luna.json`."""
        return {
            "kind": self.kind,
            "name": self.name,
            "version": self.version,
            "plugin": self.plugin,
            "distribution": self.distribution,
            "distribution_version": self.distribution_version,
            "places": list(self.places),
            "weight_share": self.weight_share,
            "needed_for": list(self.needed_for),
        }

    @classmethod
    def from_json(cls, data: Any) -> ComponentRecord:
        """The record again. The file may come from anywhere: what is later printed as an install line is checked.

        Raises:
            ValueError: names the field that is wrong.
        """
        if not isinstance(data, dict):
            raise ValueError("components")  # noqa: TRY004  one error for a field that is wrong
        for key, pattern in (("kind", _WORD), ("name", _WORD), ("plugin", _NAME), ("distribution_version", _VERSION)):
            if not isinstance(data.get(key), str) or not pattern.fullmatch(data[key]):
                raise ValueError(f"components.{key}")
        distribution = data.get("distribution")
        if not isinstance(distribution, str) or not (
            _NAME.fullmatch(distribution) or _FILE_PLUGIN.fullmatch(distribution)
        ):
            raise ValueError("components.distribution")
        share = data.get("weight_share", 0.0)
        version = data.get("version")
        if isinstance(version, bool) or not isinstance(version, int):
            raise ValueError("components.version")  # noqa: TRY004
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ValueError("components.weight_share")
        return cls(
            kind=data["kind"],
            name=data["name"],
            version=version,
            plugin=data["plugin"],
            distribution=distribution,
            distribution_version=data["distribution_version"],
            places=_words(data, "places"),
            weight_share=float(share),
            needed_for=_words(data, "needed_for"),
        )


@dataclass(frozen=True)
class Missing:
    """A component that a model needs and that is not here as it should be."""

    record: ComponentRecord
    why: str
    """`not_installed`, `off`, `broken`, `gone` (its plugin no longer brings it), `too_new` or `too_old` (the component
    that is here is of a later or earlier version, and cannot read the model's)."""
    reason: str = ""
    """For `broken`: what is wrong. For versions and `gone`: the distribution's version that is here."""
    plugin: str = ""
    """The plugin that would bring it: the recorded one, or the one known to carry it."""
    distribution: str = ""

    @property
    def in_file(self) -> bool:
        """Whether the plugin is a file (`./mine.py`), which pip cannot install."""
        return self.distribution.endswith(".py")

    @property
    def requirement(self) -> str | None:
        """What pip has to be told, or None when there is nothing to install."""
        if self.why in ("off", "broken") or self.in_file:
            return None
        if self.why == "too_old":
            return f'"{self.distribution}>={self.record.distribution_version}"'
        if self.why in ("too_new", "gone"):
            return f'"{self.distribution}=={self.record.distribution_version}"'
        return self.distribution


@dataclass(frozen=True)
class Manifest:
    """The content of `luna.json`."""

    blueprint: dict[str, Any]
    components: tuple[ComponentRecord, ...] = ()
    files: dict[str, Any] = field(default_factory=dict)
    """`{name: {"sha256", "bytes"}}` of every other file of the folder, for `base.integrity.check`."""
    chat: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    conditions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What the dimensions of the condition vectors are called, by condition; see `luna_kernel.data.conditions`."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys that this kernel does not know; kept when the manifest is written again."""
    kernel: str = __version__
    folder: Path | None = field(default=None, compare=False)

    @classmethod
    def read(cls, folder: Path | str) -> Manifest:
        """Read `folder/luna.json`, strictly; no other file is touched.

        Raises:
            UsageError: there is no model in `folder`, or a newer Luna made it.
            IntegrityError: the manifest is damaged; the text names the field.
        """
        from luna_kernel.base.integrity import read_json

        folder = Path(folder)
        path = folder / FILE
        if not path.is_file():
            raise UsageError(t("manifest.no_model", folder=folder), hint=t("manifest.no_model.hint"))
        data = read_json(path)
        return replace(cls.from_json(data, source=str(path)), folder=folder)

    @classmethod
    def from_json(cls, data: Any, *, source: str = FILE) -> Manifest:
        """The manifest from its JSON; see `read` for the errors."""
        if not isinstance(data, dict):
            raise _bad(source, FILE)
        version = data.get("format")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise _bad(source, "format")
        if version > FORMAT:
            raise UsageError(
                t("manifest.newer", source=source, format=version, known=FORMAT), hint=t("manifest.newer.hint")
            )
        for key in ("blueprint", "files", "chat", "training"):
            if not isinstance(data.get(key, {}), dict):
                raise _bad(source, key)
        if "blueprint" not in data or not isinstance(data.get("components"), list):
            raise _bad(source, "blueprint" if "blueprint" not in data else "components")
        try:
            components = tuple(ComponentRecord.from_json(item) for item in data["components"])
        except ValueError as error:
            raise _bad(source, str(error)) from error
        known = {"format", "kernel", "blueprint", "components", "files", "chat", "training", "conditions"}
        return cls(
            blueprint=data["blueprint"],
            components=components,
            files=data.get("files", {}),
            chat=data.get("chat", {}),
            training=data.get("training", {}),
            conditions=_names(data.get("conditions", {}), source),
            extra={key: value for key, value in data.items() if key not in known},
            kernel=str(data.get("kernel", "")),
        )

    def to_json(self) -> dict[str, Any]:
        """The manifest as it stands in `luna.json`."""
        return {
            "format": FORMAT,
            "kernel": self.kernel,
            "blueprint": self.blueprint,
            "components": [record.to_json() for record in self.components],
            "chat": self.chat,
            "training": self.training,
            **({"conditions": {key: list(names) for key, names in self.conditions.items()}} if self.conditions else {}),
            **self.extra,
            "files": self.files,
        }

    def write(self, folder: Path | str) -> None:
        """Write `folder/luna.json`; as the last file of a folder that is being made, it says that the rest is there."""
        from luna_kernel.base.durable import write_json

        write_json(Path(folder) / FILE, self.to_json())

    # --- what it needs -------------------------------------------------------------------------------------------

    def needed(self, purpose: str = "weights") -> list[ComponentRecord]:
        """The records needed for `purpose`: `weights`, `train` or `chat`."""
        return [record for record in self.components if purpose in record.needed_for]

    def plugins_needed(self, purpose: str = "weights") -> list[str]:
        """Names of the plugins needed for `purpose`, the kernel not counted; a plugin in a file by its path."""
        names = (r.distribution if r.distribution.endswith(".py") else r.plugin for r in self.needed(purpose))
        return [name for name in dict.fromkeys(names) if name != KERNEL]

    def switch_on(self, selection: Selection | str | None = None, *, purpose: str = "weights") -> Plugins:
        """Load the plugins for this model.

        Args:
            selection: what the user asked for; it is kept to, and may forbid a plugin that the model needs. None:
                the preferred selection, and with it every installed plugin that the model needs.
            purpose: `weights`, `train` or `chat`.

        Raises:
            MissingPluginsError: see `require`.
            PluginError: a plugin that the user named is broken.
        """
        from .discovery import discover
        from .loading import load_plugins

        if selection is not None:
            plugins = load_plugins(selection)
        else:
            found = discover()
            needed = [name for name in self.plugins_needed(purpose) if name in found]
            plugins = load_plugins(preferred_selection().with_named(tuple(needed)), strict=False)
        self.require(plugins, purpose=purpose)
        return plugins

    def missing(self, plugins: Plugins, *, purpose: str = "weights") -> list[Missing]:
        """Every component that is needed for `purpose` and is not here, or not in a version that can read it."""
        found = (_examine(record, plugins) for record in self.needed(purpose))
        return [item for item in found if item is not None]

    def require(self, plugins: Plugins, *, purpose: str = "weights") -> None:
        """Make sure that nothing is missing.

        Raises:
            MissingPluginsError: says all that is missing, where it sits, its share of the weights, why it is not
                here, and the one line that mends it.
        """
        missing = self.missing(plugins, purpose=purpose)
        if missing:
            where = self.folder if self.folder is not None else FILE
            text, hint = describe_missing(missing, plugins.selection, where=str(where))
            raise MissingPluginsError(text, hint=hint)


def _examine(record: ComponentRecord, plugins: Plugins) -> Missing | None:
    component = plugins.registry.find(record.kind, record.name)
    if component is not None:
        if component.opens(record.version):
            return None
        why = "too_new" if component.version > record.version else "too_old"
        return Missing(record, why, component.distribution_version, component.plugin, component.distribution)
    from .known import known_plugin

    known = known_plugin(record.kind, record.name)
    plugin, distribution = (known.name, known.distribution) if known else (record.plugin, record.distribution)
    if plugin == KERNEL:
        return Missing(record, "gone", __version__, plugin, "luna-kernel")
    status = plugins.statuses.get(plugin)
    if status is None:
        return Missing(record, "not_installed", "", plugin, distribution)
    if status.state == "on":
        return Missing(record, "gone", status.version, plugin, status.distribution)
    return Missing(record, status.state, status.reason, plugin, status.distribution)


def describe_missing(missing: Iterable[Missing], selection: Selection, *, where: str) -> tuple[str, str]:
    """(what is missing, what to do) in the user's language."""
    items = list(missing)
    share = percent(sum(item.record.weight_share for item in items))
    lines = [t("missing.head", where=where, share=share)]
    for item in items:
        record = item.record
        lines.append(
            t(
                "missing.line",
                kind=record.kind,
                name=record.name,
                places=describe_places(record.places) or "-",
                share=percent(record.weight_share),
                why=t(
                    "missing.file" if item.in_file else f"missing.{item.why}",
                    plugin=item.plugin,
                    distribution=item.distribution,
                    reason=item.reason,
                    version=record.distribution_version,
                ),
            )
        )
    return "\n".join(lines), "\n".join(_mend(items, selection))


def _mend(items: list[Missing], selection: Selection) -> list[str]:
    from .known import known_plugins

    lines = []
    requirements = list(dict.fromkeys(item.requirement for item in items if item.requirement))
    if requirements:
        lines.append(t("missing.install", packages=" ".join(requirements)))
        own = {known.distribution for known in known_plugins().values()} | {"luna-kernel"}
        strange = sorted({item.distribution for item in items if item.requirement and item.distribution not in own})
        if strange:
            lines.append(t("missing.strange", packages=", ".join(strange)))
    files = [item.distribution for item in items if item.in_file]
    off = [item.plugin for item in items if item.why == "off"]
    absent = [item.plugin for item in items if item.why == "not_installed" and not item.in_file]
    names = list(dict.fromkeys(off + (absent if not selection.every else [])))
    if off or files:
        mended = selection.mended(tuple(names), tuple(dict.fromkeys(files)))
        lines.append(t("missing.switch_on", selection=mended))
    if files:
        lines.append(t("missing.code"))
    if any(item.why == "broken" for item in items):
        lines.append(t("missing.see_broken"))
    return lines


def describe_places(places: Iterable[str]) -> str:
    """`blocks.1.ffn`, `blocks.3.ffn` as `blocks 1, 3: ffn`; other places as they are."""
    blocks: dict[str, list[str]] = {}
    others = []
    for place in places:
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", place)
        if match:
            blocks.setdefault(match[2], []).append(match[1])
        else:
            others.append(place)
    texts = [
        t("missing.block" if len(numbers) == 1 else "missing.blocks", numbers=", ".join(numbers), slot=slot)
        for slot, numbers in blocks.items()
    ]
    return "; ".join(texts + others)


def percent(share: float) -> str:
    """0.414 as `41%`; what is there but rounds to nothing as `<1%`."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _words(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and _WORD.fullmatch(item) for item in value):
        raise ValueError(f"components.{key}")
    return tuple(value)


def _names(data: Any, source: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(data, dict):
        raise _bad(source, "conditions")
    for condition, names in data.items():
        texts = isinstance(names, list) and all(isinstance(name, str) and name.isprintable() for name in names)
        if not texts or len(set(names)) != len(names) or not condition.isprintable():
            raise _bad(source, "conditions")
    return {condition: tuple(names) for condition, names in data.items()}


def _bad(source: str, key: str) -> IntegrityError:
    return IntegrityError(t("manifest.bad", source=source, key=key), hint=t("manifest.bad.hint"))
