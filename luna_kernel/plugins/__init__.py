"""Plugins: the hook specs, how plugins are found and chosen, and the registry of their components.

from luna_kernel.plugins import load_plugins
plugins = load_plugins("moc,ssm")            # nothing heavy is imported
plugins.registry.get("ffn", "moc").load()    # this imports the layer
"""

from .host import Plugins, PluginStatus
from .loading import load_plugins
from .manifest import ComponentRecord, Manifest
from .registry import Component, Registry
from .selection import Selection

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
