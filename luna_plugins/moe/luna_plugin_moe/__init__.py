"""Mixture of experts: what this plugin adds. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_routers(add: Add) -> None:
    """Routers for every layer with experts."""
    add(
        "router",
        "topk",
        "luna_plugin_moe.router:TopKRouter",
        config="luna_plugin_moe.config:TopKConfig",
        help="The experts with the largest scores of a linear layer",
    )
