"""Answers over one's own documents. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1
LUNA_REQUIRES = ("bm25", "tfidf")


@hookimpl
def luna_add_retrievers(add: Add) -> None:
    """How documents are kept and cut, and how what was found is ordered."""
    add(
        "knowledge_store",
        "sqlite",
        "luna_plugin_rag.store:SqliteStore",
        help="Documents and chunks in one SQLite file in the folder of the knowledge base",
    )
    add(
        "chunker",
        "paragraph",
        "luna_plugin_rag.chunker:ParagraphChunker",
        config="luna_plugin_rag.config:ParagraphConfig",
        help="Whole paragraphs and sentences up to a size, with their headings",
    )
    add(
        "reranker",
        "alignment",
        "luna_plugin_rag.relevance:AlignmentReranker",
        help="By how closely a passage's sentences follow the question",
    )


@hookimpl
def luna_add_chat(add: Add) -> None:
    """The step that searches, and its commands."""
    add(
        "step",
        "rag",
        "luna_plugin_rag.step:RagStep",
        config="luna_plugin_rag.config:RagConfig",
        help="Searches the documents and hands on passages with citations",
    )
    add("command", "rag", "luna_plugin_rag.commands:RagCommand", help="/rag on|off: search the documents or not")
    add("command", "sources", "luna_plugin_rag.commands:SourcesCommand", help="what the last answer rests on")


@hookimpl
def luna_add_commands(add: Add) -> None:
    """The verbs."""
    add("verb", "index", "luna_plugin_rag.cli:index", help="Index a folder of documents into a knowledge base")
    add("verb", "search", "luna_plugin_rag.cli:search", help="Search a folder of documents or a knowledge base")
    add("verb", "kb", "luna_plugin_rag.kb_cli:kb", help="A knowledge base: stats, verify, remove, export, analyze")
