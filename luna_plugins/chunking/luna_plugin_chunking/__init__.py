"""Ways to cut documents into chunks. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1

_CHUNKERS = {
    "fixed": ("Fixed", "ChunkConfig", "Filled to the limit, wherever that falls"),
    "sentence": ("Sentence", "ChunkConfig", "Whole sentences and paragraphs up to a limit"),
    "semantic": ("Semantic", "SemanticConfig", "Cut where the words of the text change"),
    "adaptive": ("Adaptive", "ChunkConfig", "Small chunks of dense text, large ones of loose text"),
    "overlapping": ("Overlapping", "OverlappingConfig", "Each chunk begins with the last sentences of the one before"),
    "hierarchical": ("Hierarchical", "ChunkConfig", "Paragraphs that know their section and document"),
    "markdown": ("Markdown", "ChunkConfig", "Whole blocks of one section, with the path of headings"),
}


@hookimpl
def luna_add_retrievers(add: Add) -> None:
    """The strategies."""
    for name, (target, config, text) in _CHUNKERS.items():
        add(
            "chunker",
            name,
            f"luna_plugin_chunking.chunkers:{target}Chunker",
            config=f"luna_plugin_chunking.config:{config}",
            help=text,
        )


@hookimpl
def luna_add_commands(add: Add) -> None:
    """The verbs."""
    add("verb", "chunk", "luna_plugin_chunking.cli:chunk", help="Cut documents into chunks")
    add("verb", "analyze", "luna_plugin_chunking.cli:analyze", help="Report how good the chunks of documents are")
    add("verb", "benchmark", "luna_plugin_chunking.cli:benchmark", help="Time ways to cut documents into chunks")
