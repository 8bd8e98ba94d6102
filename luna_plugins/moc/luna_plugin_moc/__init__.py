"""Mixture of Collaborative Experts: what this plugin adds. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1
LUNA_REQUIRES = ("moe",)


@hookimpl
def luna_add_layers(add: Add) -> None:
    """One feed-forward layer."""
    add(
        "ffn",
        "moc",
        "luna_plugin_moc.layer:CollaborativeExperts",
        config="luna_plugin_moc.config:MoCConfig",
        version=2,
        oldest=1,
        place="every 2nd block",
        help="Mixture of Collaborative Experts: experts confer before the choice, the chosen ones after it",
    )


@hookimpl
def luna_add_routers(add: Add) -> None:
    """The meeting before the choice, for other layers with experts."""
    add(
        "router",
        "contextual",
        "luna_plugin_moc.router:ContextualRouter",
        config="luna_plugin_moc.config:ContextualConfig",
        help="As topk, after the experts have shown each other small probes",
    )
