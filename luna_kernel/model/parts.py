"""Building a component, and those nested in it: the one way for the decoder and for the conformance suite.

A class may say that fields of its configuration are nodes of further components:

    nested: ClassVar[Mapping[str, str]] = {"router": "router"}      # field of the configuration -> kind

For each it is handed, by keyword, something to call: `router(dims, num_experts, top_k)` gives the component, built with
its own validated configuration. It must stand under the field's name, `self.router`: its place is then
`blocks.1.ffn.router`, which is also the prefix of its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from luna_kernel.base.errors import ConfigError, PluginError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.layers import Dims
from luna_kernel.plugins.registry import Component, Registry

from .blueprint import Node

t = catalogue(__package__)


@dataclass(frozen=True)
class Part:
    """One component of a live model."""

    place: str
    """Such as `blocks.1.ffn`; also the prefix of its weights."""
    component: Component
    node: Node
    """Its node with every field of its configuration resolved, nested nodes too."""
    module: nn.Module
    nested: bool = False
    """It belongs to the part around it; a layer, modulator or position scheme of the model itself does not."""


def make_parts(kind: str, place: str, node: Node, dims: Dims, registry: Registry) -> list[Part]:
    """Build the component that `node` names, and those nested in it; the outermost comes first.

    Raises:
        UsageError: it, or a nested one, is not registered; names its place and, where known, its package.
        ConfigError: a node does not validate; names its place.
        PluginError: a class did not build a nested component, or keeps it under another name.
    """
    plan = _Plan(kind, place, node, registry)
    plan.build(dims)
    return plan.parts()


class _Plan:
    """A component that is about to be built; everything is looked up before anything is made."""

    def __init__(self, kind: str, place: str, node: Node, registry: Registry) -> None:
        self.place = place
        self.component = registry.get(kind, node["name"], where=place)
        self.kept = {"slot": node["slot"]} if kind == "modulator" and "slot" in node else {}
        fields = {key: value for key, value in node.items() if key not in self.kept}
        self.config = self.component.make_config(fields, where=place)
        self.target: Any = self.component.load()
        nested: Mapping[str, str] = getattr(self.target, "nested", {})
        self.inner = {
            field: _inner(inner_kind, f"{place}.{field}", getattr(self.config, field), registry)
            for field, inner_kind in nested.items()
        }
        self.module: nn.Module | None = None

    def build(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Make the module: the class gets its configuration, the arguments, and what is nested by keyword."""
        factories = {field: None if plan is None else plan.build for field, plan in self.inner.items()}
        module: nn.Module = self.target(self.config, *args, **factories, **kwargs)
        self.module = module
        for field, plan in self.inner.items():
            if plan is not None and (plan.module is None or getattr(module, field, None) is not plan.module):
                raise PluginError(t("parts.not_kept", place=self.place, name=self.component.name, field=field))
        return module

    def node(self) -> Node:
        """With every field resolved."""
        resolved = {} if self.config is None else self.config.model_dump(mode="json")
        inner = {field: plan.node() for field, plan in self.inner.items() if plan is not None}
        return {"name": self.component.name, **self.kept, **resolved, **inner}

    def parts(self, *, nested: bool = False) -> list[Part]:
        """After `build`."""
        assert self.module is not None
        found = [Part(self.place, self.component, self.node(), self.module, nested)]
        for plan in self.inner.values():
            found += [] if plan is None else plan.parts(nested=True)
        return found


def _inner(kind: str, place: str, node: Any, registry: Registry) -> _Plan | None:
    """The plan of a nested node; None for a field that is None: the layer goes without."""
    if node is None:
        return None
    if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
        known = ", ".join(component.name for component in registry.of_kind(kind)) or "-"
        raise ConfigError(t("parts.no_node", place=place), hint=t("parts.no_node.hint", kind=kind, names=known))
    return _Plan(kind, place, dict(node), registry)
