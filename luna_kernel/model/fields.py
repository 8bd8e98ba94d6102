"""Fields of components that a person sets: the grammar of `--set`, and how they join a component's node.

    --set moc.context=full --set attention.window=256 --set moe.router=emotional --set moe.router.head=true

A value is read as JSON (`3`, `true`, `null`, `[1, 2]`), and as plain text where it is none. A field that holds a
component of its own, such as a router, takes a name, an object, or fields by longer paths.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.plugins.registry import Component, suggest

if TYPE_CHECKING:
    from .blueprint import Blueprint, Node

t = catalogue(__package__)

Fields = dict[str, dict[str, Any]]
"""Component, by its name or as `kind:name`, to fields of its configuration."""


def parse_fields(options: Iterable[str]) -> Fields:
    """`NAME.FIELD=VALUE`, given any number of times, as {name: fields}.

    Raises:
        UsageError: not of that form, one field twice, or one field as a value and as something that has fields.
    """
    found: dict[tuple[str, ...], Any] = {}
    for option in options:
        left, equals, value = (part.strip() for part in option.partition("="))
        path = tuple(part.strip() for part in left.split("."))
        if not equals or len(path) < 2 or not all(path):
            raise UsageError(t("fields.option", option=option), hint=t("fields.hint"))
        if path in found:
            raise UsageError(t("fields.twice", field=left), hint=t("fields.hint"))
        found[path] = _value(value)
    fields: Fields = {}
    for path, value in sorted(found.items(), key=lambda item: len(item[0])):  # a node comes before its fields
        at: dict[str, Any] = fields
        for i, part in enumerate(path[:-1]):
            inner = at.setdefault(part, {})
            if isinstance(inner, str):
                inner = at[part] = {"name": inner}
            if not isinstance(inner, dict):
                raise UsageError(t("fields.both", field=".".join(path[: i + 1])), hint=t("fields.hint"))
            at = inner
        at[path[-1]] = value
    return fields


def _value(text: str) -> Any:
    def no_number(name: str) -> Any:
        raise ValueError(name)

    try:
        return json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError):
        return text


def join_fields(first: Mapping[str, Mapping[str, Any]], second: Mapping[str, Mapping[str, Any]]) -> Fields:
    """Both; where they differ, the second."""
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in {**first, **second}}


def node_with_fields(component: Component, node: Node, configs: Mapping[str, Mapping[str, Any]]) -> Node:
    """The component's node with the fields that `configs` has for it; as it was where there are none.

    A field that holds a node takes a name alone, and fields alone, which then change the node that was there.

    Raises:
        ConfigError: an unknown field or a wrong value; names the component, and what there is.
    """
    key = f"{component.kind}:{component.name}"
    given = {**configs.get(component.name, {}), **configs.get(key, {})}
    if not given:
        return node
    model = component.load_config()
    for name, value in given.items():
        known = None if model is None else model.model_fields.get(name)
        before = node.get(name, None if known is None else known.get_default(call_default_factory=True))
        if not isinstance(before, Mapping) or not isinstance(before.get("name"), str):
            continue
        if isinstance(value, str):
            given[name] = {"name": value}
        elif isinstance(value, Mapping) and "name" not in value:
            given[name] = {**before, **value}
    changed = {**node, **given, "name": component.name}
    component.make_config(changed, where=component.name)
    return changed


def refuse_unused(configs: Mapping[str, Mapping[str, Any]], blueprint: Blueprint) -> None:
    """Fields that were set for a component that the model does not have.

    Raises:
        UsageError: there are some; names the nearest component of the model, and all of them.
    """
    used: dict[str, None] = {}
    for place, node in blueprint.nodes():
        slot = place.split(".")[2] if "." in place else place
        used[node["name"]] = used[f"{slot.removesuffix('s')}:{node['name']}"] = None
    for name in configs:
        if name not in used:
            names = [known for known in used if ":" not in known]
            text = t("fields.unused", name=name) + suggest(name, names)
            raise UsageError(text, hint=t("fields.unused.hint", name=name, names=", ".join(names)))
