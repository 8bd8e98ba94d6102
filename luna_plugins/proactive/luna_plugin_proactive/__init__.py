"""Suggestions that nobody asked for, where they help. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_chat(add: Add) -> None:
    """The step that suggests, and its command."""
    add(
        "step",
        "proactive",
        "luna_plugin_proactive.step:ProactiveStep",
        config="luna_plugin_proactive.config:ProactiveConfig",
        help="Suggests a next step after an answer, seldom and never twice",
    )
    add("command", "proactive", "luna_plugin_proactive.command:ProactiveCommand", help="/proactive [on|off]")
