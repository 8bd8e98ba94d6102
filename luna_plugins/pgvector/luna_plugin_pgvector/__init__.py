"""Knowledge in PostgreSQL. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1
LUNA_REQUIRES = ("faiss",)
"""For its encoder `lsa`, which needs no download."""


@hookimpl
def luna_add_retrievers(add: Add) -> None:
    """The store and the two retrievers. None is used unless it is named: they need a server."""
    add(
        "knowledge_store",
        "postgres",
        "luna_plugin_pgvector.store:PostgresStore",
        config="luna_plugin_pgvector.config:ServerConfig",
        help="Documents and chunks in PostgreSQL, for several machines",
    )
    add(
        "retriever",
        "pgvector",
        "luna_plugin_pgvector.vectors:VectorRetriever",
        config="luna_plugin_pgvector.config:VectorConfig",
        help="Nearness of vectors in PostgreSQL (pgvector), with an encoder of your choice",
    )
    add(
        "retriever",
        "pgtext",
        "luna_plugin_pgvector.text:TextRetriever",
        config="luna_plugin_pgvector.config:TextConfig",
        help="Words that question and text share, by PostgreSQL's text search in Portuguese",
    )
