"""TF-IDF search over character n-grams. This module is light: it only says what there is."""

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
        "tfidf",
        "luna_plugin_tfidf.retriever:TfidfRetriever",
        config="luna_plugin_tfidf.config:TfidfConfig",
        help="Parts of words that question and text share (TF-IDF); forgives typing errors",
    )
