"""Selective state spaces: what this plugin adds. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_layers(add: Add) -> None:
    """Two mixers."""
    add(
        "mixer",
        "ssm",
        "luna_plugin_ssm.layer:StateSpace",
        config="luna_plugin_ssm.config:StateSpaceConfig",
        place="3 of 4 blocks",
        help="Selective state space (Mamba-2): linear in the length, constant memory per request",
    )
    add(
        "mixer",
        "hybrid",
        "luna_plugin_ssm.hybrid:Hybrid",
        config="luna_plugin_ssm.config:HybridConfig",
        help="Attention and a state space side by side, learned mix per channel",
    )
