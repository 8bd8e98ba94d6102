"""Position schemes: what this plugin adds. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_layers(add: Add) -> None:
    """Four position schemes; none goes into a model unless it is asked for."""
    package = "luna_plugin_positions"
    for name, part, text in (
        ("alibi", "Alibi", "A penalty per head that grows with the distance, without weights"),
        ("t5", "Bucketed", "A learned bias per head on the distance, in buckets (T5)"),
        ("relational", "Relational", "RoPE and a learned bias on who speaks and how many turns ago"),
        ("none", "NoPosition", "No position at all: what comes before is all that attention knows (NoPE)"),
    ):
        config = None if name == "none" else f"{package}.config:{part}Config"
        add("position", name, f"{package}.position:{part}", config=config, help=text)
