"""What people think of answers, and models refined from it. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1
LUNA_REQUIRES = ("lora", "preference")
LUNA_CRITICAL = True
"""A judgement that the disk refused must be told to whoever gave it, not only logged."""


@hookimpl
def luna_add_chat(add: Add) -> None:
    """The commands."""
    for name, text in (
        ("good", "/good [comment]: the last answer was good"),
        ("bad", "/bad [comment]: the last answer was not good"),
        ("rate", "/rate accurate=2 … [comment]: judge the last answer, 1 to 5"),
        ("correct", "/correct TEXT: what the last answer should have been"),
    ):
        add("command", name, f"luna_plugin_feedback.command:{name.title()}Command", help=text)


@hookimpl
def luna_add_callbacks(add: Add) -> None:
    """What trains less of a model."""
    add(
        "callback",
        "freeze",
        "luna_plugin_feedback.callback:Freeze",
        config="luna_plugin_feedback.config:FreezeConfig",
        help="Leaves the embedding and the lower blocks as they are: less memory and time per step",
    )


@hookimpl
def luna_add_commands(add: Add) -> None:
    """The verbs."""
    add("verb", "feedback", "luna_plugin_feedback.cli:feedback", help="Read, export and import what people think")
    add("verb", "refine", "luna_plugin_feedback.refine_cli:refine", help="Train a model further from feedback")


@hookimpl
def luna_chat_feedback(session: Any, turn: Any, feedback: dict[str, Any]) -> None:
    """Keep the judgement, unless a command of this plugin has kept it already."""
    from .hearing import STORED, hear

    if STORED not in feedback:
        hear(session, turn, feedback)
