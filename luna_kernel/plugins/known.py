"""The shipped catalogue: which plugin of Luna's own family carries which component, and its distribution.

It is data (`known_plugins.json`), used only to say what to install; nothing is ever installed by guessing a name.
"""

from __future__ import annotations

import functools
import json
import pkgutil
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownPlugin:
    """One plugin that Luna's authors publish."""

    name: str
    distribution: str
    help: str
    components: tuple[str, ...]
    """`kind:name` of each component."""


@functools.lru_cache(maxsize=1)
def known_plugins() -> dict[str, KnownPlugin]:
    """The catalogue by plugin name."""
    found = pkgutil.get_data(__package__, "known_plugins.json")
    assert found is not None
    data = json.loads(found)
    return {
        name: KnownPlugin(name, item["distribution"], item["help"], tuple(item["components"]))
        for name, item in data.items()
    }


def known_plugin(kind: str, name: str) -> KnownPlugin | None:
    """The plugin that is known to carry a component, or None."""
    for plugin in known_plugins().values():
        if f"{kind}:{name}" in plugin.components:
            return plugin
    return None
