"""Answers from an endpoint with OpenAI's protocol. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_chat(add: Add) -> None:
    """The generator."""
    add(
        "generator",
        "openai",
        "luna_plugin_openai.generator:OpenAIGenerator",
        config="luna_plugin_openai.config:OpenAIConfig",
        help="Asks an endpoint with OpenAI's protocol",
    )
