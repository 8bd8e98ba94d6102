"""`luna plugins --check`: import every component and its config, and hold both to what their kind asks."""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import LunaError
from luna_kernel.base.messages import catalogue

if TYPE_CHECKING:
    from luna_kernel.plugins import Component, Plugins

t = catalogue(__package__)

CONTRACTS = {
    "mixer": "luna_kernel.contracts.layers:Layer",
    "ffn": "luna_kernel.contracts.layers:Layer",
    "position": "luna_kernel.contracts.layers:Position",
    "modulator": "luna_kernel.contracts.layers:Modulator",
    "adapter": "luna_kernel.contracts.growth:Adapter",
    "grower": "luna_kernel.contracts.growth:Grower",
    "callback": "luna_kernel.contracts.training:Callback",
    "retriever": "luna_kernel.contracts.retrievers:Retriever",
    "encoder": "luna_kernel.contracts.retrievers:Encoder",
    "chunker": "luna_kernel.contracts.retrievers:Chunker",
    "reranker": "luna_kernel.contracts.retrievers:Reranker",
    "reader": "luna_kernel.contracts.data:Reader",
    "step": "luna_kernel.contracts.chat:Step",
    "generator": "luna_kernel.contracts.chat:Generator",
    "command": "luna_kernel.contracts.chat:Command",
    "verb": "click:Command",
}
"""The base class that a component of each kind must have; kinds that take functions are not here."""


def check_plugins(plugins: Plugins) -> dict[str, list[str]]:
    """The complaints about each plugin that is on, the kernel included; a plugin without any is not in the result."""
    complaints: dict[str, list[str]] = {}
    for component in plugins.registry:
        with contextlib.redirect_stdout(sys.stderr):
            found = check_component(component)
        if found:
            complaints.setdefault(component.plugin, []).extend(found)
    return complaints


def check_component(component: Component) -> list[str]:
    """The complaints about one component."""
    place = f"{component.kind}:{component.name}"
    found = []
    try:
        target = component.load()
    except LunaError as error:
        return [error.text]
    if not callable(target):
        found.append(t("check.not_callable", place=place, target=component.target))
    base = CONTRACTS.get(component.kind)
    if base is not None and not _has_base(target, base):
        found.append(t("check.contract", place=place, target=component.target, base=base.replace(":", ".")))
    try:
        config = component.load_config()
    except LunaError as error:
        return [*found, error.text]
    if config is not None:
        found += _check_config(component, config, place)
    return found


def _has_base(target: Any, base: str) -> bool:
    module, _, name = base.partition(":")
    kind = getattr(importlib.import_module(module), name)
    return issubclass(target, kind) if isinstance(target, type) else isinstance(target, kind)


def _check_config(component: Component, config: Any, place: str) -> list[str]:
    from pydantic import BaseModel

    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        return [t("check.not_pydantic", place=place, config=component.config)]
    found = []
    if config.model_config.get("extra") != "forbid" or not config.model_config.get("frozen"):
        found.append(t("check.loose", place=place, config=component.config))
    required = {name for name, field in config.model_fields.items() if field.is_required()}
    if required - set(component.default):
        return found  # it cannot stand without what only the user knows, such as an address
    try:
        component.make_config()
    except LunaError as error:
        found.append(t("check.defaults", place=place, reason=error.text))
    except Exception as error:  # noqa: BLE001  a validator of the plugin's own may raise anything
        found.append(t("check.defaults", place=place, reason=f"{type(error).__name__}: {error}"))
    return found
