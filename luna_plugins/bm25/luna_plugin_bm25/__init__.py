"""BM25 search over Portuguese stems. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_retrievers(add: Add) -> None:
    """The retriever."""
    add(
        "retriever",
        "bm25",
        "luna_plugin_bm25.retriever:BM25Retriever",
        config="luna_plugin_bm25.config:BM25Config",
        help="Words that question and text share, weighed by rarity (BM25)",
    )
