"""Ways of speaking, and one's own from a file. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1

BUNDLED = {
    "tecnico": "Exact terms, step by step",
    "casual": "Relaxed, as between friends",
    "formal": "Polite and impersonal",
    "balanced": "Clear, neither stiff nor slangy",
    "academic": "Definitions first, careful claims",
    "friendly": "Warm and encouraging",
}
"""The personas in `data/`, with the line that `luna plugins` shows."""


@hookimpl
def luna_add_personas(add: Add) -> None:
    """The bundled personas."""
    for name, line in BUNDLED.items():
        add("persona", name, f"luna_plugin_personas.bundled:{name}", help=line)


@hookimpl
def luna_add_chat(add: Add) -> None:
    """The step that lets a persona speak, and its command."""
    add(
        "step",
        "persona",
        "luna_plugin_personas.step:PersonaStep",
        config="luna_plugin_personas.config:PersonaStepConfig",
        help="Adds the persona's text to the system message, and its sampling",
    )
    add("command", "persona", "luna_plugin_personas.command:PersonaCommand", help="/persona [NAME|FILE|auto|off]")
    add("command", "style", "luna_plugin_personas.command:StyleCommand", help="/style formality=0.8 …: style sliders")
