"""Mixture of experts: what this plugin adds. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_layers(add: Add) -> None:
    """One feed-forward layer, for who asks for it: where other plugins are on too, it takes nobody's place."""
    add(
        "ffn",
        "moe",
        "luna_plugin_moe.layer:SparseExperts",
        config="luna_plugin_moe.config:MoEConfig",
        place="every 2nd block",
        automatic=False,
        help="Mixture of experts in place of the feed-forward: top-k, nothing dropped",
    )
    add(
        "grower",
        "upcycle",
        "luna_plugin_moe.grower:Upcycle",
        config="luna_plugin_moe.config:UpcycleConfig",
        help="Dense feed-forward layers become mixtures of their copies: the same function, to rounding",
    )


@hookimpl
def luna_add_routers(add: Add) -> None:
    """Routers for every layer with experts."""
    add(
        "router",
        "topk",
        "luna_plugin_moe.router:TopKRouter",
        config="luna_plugin_moe.config:TopKConfig",
        help="The experts with the largest scores of a linear layer",
    )
    add(
        "router",
        "emotional",
        "luna_plugin_moe.emotional:EmotionalRouter",
        config="luna_plugin_moe.config:EmotionalConfig",
        help="As topk, moved by an emotion from outside or from a head that reads it",
    )
    add(
        "router",
        "hash",
        "luna_plugin_moe.router:HashRouter",
        config="luna_plugin_moe.config:HashConfig",
        help="Experts by the token's id alone; nothing to learn",
    )


@hookimpl
def luna_add_chat(add: Add) -> None:
    """How a person tells the emotion."""
    add("command", "emotion", "luna_plugin_moe.command:EmotionCommand", help="/emotion [joy=0.8 ...|off]")


@hookimpl
def luna_add_commands(add: Add) -> None:
    """How experts are looked at."""
    add("verb", "experts", "luna_plugin_moe.cli:experts", help="Show which experts work, and what an emotion changes")
