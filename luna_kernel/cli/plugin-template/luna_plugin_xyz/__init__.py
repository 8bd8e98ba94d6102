"""Xyz: a feed-forward layer with a squared ReLU. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl
from luna_kernel.base.messages import catalogue

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1
t = catalogue(__name__)


@hookimpl
def luna_add_layers(add: Add) -> None:
    """The feed-forward layer."""
    add(
        "ffn",
        "xyz",
        "luna_plugin_xyz.layer:Xyz",
        config="luna_plugin_xyz.config:XyzConfig",
        version=1,
        place="every 2nd block",
        help=t("layer.help"),
    )
