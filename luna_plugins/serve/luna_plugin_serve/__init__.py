"""A server with OpenAI's protocol and a web page. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_commands(add: Add) -> None:
    """The verb."""
    add("verb", "serve", "luna_plugin_serve.cli:serve", help="Serve a model: OpenAI's protocol and a web page")
