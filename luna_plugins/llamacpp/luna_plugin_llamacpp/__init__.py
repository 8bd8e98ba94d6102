"""Answers from a GGUF file through llama.cpp. This module is light: it only says what there is."""

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
        "llamacpp",
        "luna_plugin_llamacpp.generator:LlamaCppGenerator",
        config="luna_plugin_llamacpp.config:LlamaCppConfig",
        help="Answers with a GGUF file through llama.cpp",
    )
