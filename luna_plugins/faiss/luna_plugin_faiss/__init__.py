"""Dense search with FAISS. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_retrievers(add: Add) -> None:
    """The retriever, and the encoder that needs no download."""
    add(
        "retriever",
        "faiss",
        "luna_plugin_faiss.retriever:FaissRetriever",
        config="luna_plugin_faiss.config:FaissConfig",
        help="Nearness of vectors (FAISS), with an encoder of your choice",
    )
    add(
        "encoder",
        "lsa",
        "luna_plugin_faiss.encoder:LsaEncoder",
        config="luna_plugin_faiss.config:LsaConfig",
        help="Vectors learned from the documents themselves (latent semantic analysis)",
    )
