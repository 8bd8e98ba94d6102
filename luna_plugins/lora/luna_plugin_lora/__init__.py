"""Low-rank adapters: what this plugin adds. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_layers(add: Add) -> None:
    """One adapter."""
    add(
        "adapter",
        "lora",
        "luna_plugin_lora.adapter:LowRank",
        config="luna_plugin_lora.config:LowRankConfig",
        help="Learns a product of two thin matrices beside each linear layer",
    )
