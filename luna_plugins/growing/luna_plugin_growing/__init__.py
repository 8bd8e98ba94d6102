"""Models that grow while they are trained: what this plugin adds. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_layers(add: Add) -> None:
    """Three ways to make a model larger."""
    add(
        "grower",
        "depth",
        "luna_plugin_growing.grower:Depth",
        config="luna_plugin_growing.config:DepthConfig",
        help="Copies of blocks that write nothing yet: the same function, to the bit",
    )
    add(
        "grower",
        "width",
        "luna_plugin_growing.width:Width",
        config="luna_plugin_growing.config:WidthConfig",
        help="More hidden units, or a wider model, for the kernel's dense layers: the same function, to rounding",
    )
    add(
        "grower",
        "stack",
        "luna_plugin_growing.grower:Stack",
        config="luna_plugin_growing.config:StackConfig",
        help="The whole depth once more on top; changes the function",
    )


@hookimpl
def luna_add_callbacks(add: Add) -> None:
    """When to grow."""
    add(
        "callback",
        "grow",
        "luna_plugin_growing.callback:Grow",
        config="luna_plugin_growing.config:GrowConfig",
        help="Lets the model grow when its held-out loss stops falling, or at given steps",
    )
