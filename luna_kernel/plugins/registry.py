"""The registry: every component by kind and name, kept as strings until somebody needs it.

A component in a configuration is a plain node, `{name: moc, num_experts: 8}`. It can be read, printed and edited
without the plugin; `Component.make_config` validates it when it is built.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from luna_kernel.base.errors import ConfigError, PluginError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import problem_of

if TYPE_CHECKING:
    from pydantic import BaseModel

t = catalogue(__package__)


class Add(Protocol):
    """The function that a `luna_add_*` hook is given."""

    def __call__(
        self,
        kind: str,
        name: str,
        target: str,
        *,
        config: str | None = None,
        version: int = 1,
        oldest: int | None = None,
        help: str = "",  # noqa: A002  the word that click and argparse use
        place: str | None = None,
        default: Mapping[str, Any] | None = None,
        automatic: bool = True,
    ) -> None:
        """Register one component; see `Component` for the meaning of each argument."""


@dataclass(frozen=True)
class Component:
    """One registered component. Nothing of it is imported until `load` or `load_config`."""

    kind: str
    name: str
    target: str
    """`package.module:attribute` of the class or function."""
    plugin: str
    """Entry-point name of its plugin; `kernel` for the kernel's own."""
    distribution: str
    distribution_version: str
    config: str | None = None
    """`package.config:Class` of its pydantic model; None when it takes no configuration."""
    version: int = 1
    """Grows when a saved node or saved weights of the old version need `migrate`."""
    oldest: int | None = None
    """The oldest version that the component's `migrate` still reads; None: only `version` itself."""
    help: str = ""
    place: str | None = None
    """Where `luna create` puts it without being told: `every block`, `every 2nd block`, `last block`, …"""
    default: Mapping[str, Any] = field(default_factory=dict)
    """The node's fields that differ from the config's defaults when nobody says otherwise."""

    automatic: bool = True
    """Whether `place` counts under the selection `all` too; False: only when the user names its plugin."""

    def opens(self, version: int) -> bool:
        """Whether this component can read what its `version` saved."""
        return (self.version if self.oldest is None else self.oldest) <= version <= self.version

    def load(self) -> Any:
        """Import the component.

        Raises:
            PluginError: its module or attribute cannot be imported; names the plugin and the reason.
        """
        return self._import(self.target)

    def load_config(self) -> type[BaseModel] | None:
        """Import the pydantic model of its configuration, or None."""
        return None if self.config is None else self._import(self.config)

    def make_config(self, node: Mapping[str, Any] | None = None, *, where: str = "") -> Any:
        """Validate `node` (without its `name`) and return the frozen config object, or None without a config.

        Args:
            where: the node's place in the file or blueprint, for the error.

        Raises:
            ConfigError: names the place, each wrong field, and the nearest right one.
        """
        fields = {**self.default, **{key: value for key, value in (node or {}).items() if key != "name"}}
        model = self.load_config()
        place = where or f"{self.kind}.{self.name}"
        if model is None:
            if fields:
                raise ConfigError(t("config.takes_none", place=place, name=self.name, fields=", ".join(fields)))
            return None
        return validate(model, fields, where=place)

    def _import(self, target: str) -> Any:
        module, _, attribute = target.partition(":")
        try:
            value: Any = importlib.import_module(module)
            for part in attribute.split("."):
                value = getattr(value, part)
        except (Exception, SystemExit) as error:  # a plugin that exits at import must not end Luna in silence
            raise PluginError(
                t(
                    "component.import_failed",
                    kind=self.kind,
                    name=self.name,
                    plugin=self.plugin,
                    target=target,
                    reason=f"{type(error).__name__}: {error}",
                )
            ) from error
        return value


def validate(model: type[BaseModel], fields: Mapping[str, Any], *, where: str) -> BaseModel:
    """Validate `fields` against a pydantic model, with errors that name place, field and the nearest right field."""
    from pydantic import ValidationError

    try:
        return model.model_validate(dict(fields))
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            path = ".".join(str(part) for part in item["loc"])
            line = t("config.bad_field", place=where, field=path, reason=problem_of(item))
            if not path:  # fields that do not go together
                line = f"{where}: {item.get('ctx', {}).get('error', item['msg'])}."
            if item["type"] == "extra_forbidden":
                line = t("config.unknown_field", place=where, field=path) + suggest(path, model.model_fields)
            elif item["type"] == "literal_error" and isinstance(item["input"], str):
                values = re.findall(r"'([^']*)'", item["ctx"]["expected"])
                line = t("config.one_of", place=where, field=path, values=", ".join(values), value=item["input"])
                line += suggest(item["input"], values)
            lines.append(line)
        raise ConfigError("\n".join(lines), hint=t("config.fields", fields=", ".join(model.model_fields))) from error


def as_node(value: Any) -> Any:
    """A component that a configuration names by a node or by its name alone, as a node; for pydantic's validators.

    Raises:
        ValueError: a node without a name.
    """
    node = {"name": value} if isinstance(value, str) else value
    if isinstance(node, Mapping) and not isinstance(node.get("name"), str):
        raise ValueError("a component needs a name")  # noqa: TRY004  pydantic reports it with its place
    return node


def suggest(name: str, known: Any) -> str:
    """` Did you mean X?` for the nearest of `known`, or nothing."""
    import difflib  # only a wrong name needs it

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return " " + t("suggest", name=near[0]) if near else ""


class Registry:
    """All components of the plugins that are switched on."""

    def __init__(self) -> None:
        self._components: dict[tuple[str, str], Component] = {}

    def add(self, component: Component) -> None:
        """Add one component.

        Raises:
            PluginError: the same kind and name is there already; names both distributions.
        """
        key = (component.kind, component.name)
        other = self._components.get(key)
        if other is not None:
            raise PluginError(
                t(
                    "component.twice",
                    kind=component.kind,
                    name=component.name,
                    first=f"{other.plugin} ({other.distribution})",
                    second=f"{component.plugin} ({component.distribution})",
                ),
                hint=t("component.twice.hint", first=other.plugin, second=component.plugin),
            )
        self._components[key] = component

    def remove_plugin(self, plugin: str) -> None:
        """Take back everything that `plugin` added."""
        self._components = {key: item for key, item in self._components.items() if item.plugin != plugin}

    def find(self, kind: str, name: str) -> Component | None:
        """The component, or None."""
        return self._components.get((kind, name))

    def get(self, kind: str, name: str, *, where: str = "") -> Component:
        """The component.

        Raises:
            UsageError: unknown; names the nearest, all known names of the kind, and the package that is known to
                carry it, if the shipped catalogue records one.
        """
        found = self.find(kind, name)
        if found is not None:
            return found
        known = [item.name for item in self.of_kind(kind)]
        text = t("component.unknown", kind=kind, name=name) + suggest(name, known)
        if where:
            text = f"{where}: {text}"
        from .known import known_plugin

        plugin = known_plugin(kind, name)
        hint = t("component.known", kind=kind, names=", ".join(known) or "-")
        if plugin is not None:
            hint = t("component.in_plugin", plugin=plugin.name, distribution=plugin.distribution) + "\n" + hint
        raise UsageError(text, hint=hint)

    def of_kind(self, kind: str) -> list[Component]:
        """All components of one kind, in the order of registration."""
        return [item for (k, _), item in self._components.items() if k == kind]

    def of_plugin(self, plugin: str) -> list[Component]:
        """All components that one plugin added."""
        return [item for item in self._components.values() if item.plugin == plugin]

    def __iter__(self) -> Iterator[Component]:
        return iter(self._components.values())

    def __len__(self) -> int:
        return len(self._components)
