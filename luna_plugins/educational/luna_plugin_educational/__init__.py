"""A chat that teaches how a language model works. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1

_COMMANDS = {
    "educational": ("EducationalCommand", "/educational [on|off|tensors]: explain each answer or not"),
    "explain": ("ExplainCommand", "/explain [N] [layer=L] [head=H] [token=K]: the whole path of an answer"),
    "tokens-demo": ("TokensCommand", "/tokens-demo TEXT: how a text becomes tokens"),
    "experts": ("ExpertsCommand", "/experts [N]: which experts worked on an answer, and on what"),
    "memory": ("MemoryCommand", "/memory: what model and conversation take, computed and measured"),
    "chunk-demo": ("ChunkDemoCommand", "/chunk-demo [TEXT]: a text, or the documents, cut by every strategy"),
    "chunk-stats": ("ChunkStatsCommand", "/chunk-stats: how good the chunks of the documents are"),
    "optimize-chunks": ("OptimizeCommand", "/optimize-chunks: changes that were tried and help"),
    "chunk-size": ("ChunkSizeCommand", "/chunk-size N: cut the documents anew with another limit"),
    "chunk-strategy": ("ChunkStrategyCommand", "/chunk-strategy NAME: cut the documents anew in another way"),
}
_OF_CHUNKS = ("chunk-demo", "chunk-stats", "optimize-chunks", "chunk-size", "chunk-strategy")


@hookimpl
def luna_add_chat(add: Add) -> None:
    """The step that explains, and the commands."""
    add(
        "step",
        "educational",
        "luna_plugin_educational.step:EducationalStep",
        config="luna_plugin_educational.config:EducationalConfig",
        help="Explains each answer from the model's own numbers",
    )
    for name, (target, text) in _COMMANDS.items():
        module = "chunk_commands" if name in _OF_CHUNKS else "commands"
        add("command", name, f"luna_plugin_educational.{module}:{target}", help=text)
