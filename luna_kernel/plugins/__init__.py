"""Plugins: the hook specs, how plugins are found and chosen, and the registry of their components.

from luna_kernel.plugins import load_plugins
plugins = load_plugins("moc,ssm")            # nothing heavy is imported
plugins.registry.get("ffn", "moc").load()    # this imports the layer
"""

from typing import TYPE_CHECKING, Any

from .host import Plugins, PluginStatus
from .loading import load_plugins
from .registry import Component, Registry
from .selection import Selection

if TYPE_CHECKING:
    from .manifest import ComponentRecord, Manifest

__all__ = [
    "Component",
    "ComponentRecord",
    "Manifest",
    "PluginStatus",
    "Plugins",
    "Registry",
    "Selection",
    "load_plugins",
]


def __getattr__(name: str) -> Any:
    """Import what belongs to a model's manifest on first use only: `luna --help` needs none of it."""
    if name in ("ComponentRecord", "Manifest"):
        from . import manifest

        return getattr(manifest, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
