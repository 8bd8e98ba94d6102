"""Encoders that come trained. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_retrievers(add: Add) -> None:
    """The encoders."""
    add(
        "encoder",
        "model",
        "luna_plugin_encoders.model:ModelEncoder",
        config="luna_plugin_encoders.config:ModelConfig",
        help="The hidden states of a Luna model, averaged",
    )
    add(
        "encoder",
        "sentence_transformers",
        "luna_plugin_encoders.sentence_transformers:SentenceEncoder",
        config="luna_plugin_encoders.config:SentenceConfig",
        help="A folder of sentence-transformers on this machine",
    )
