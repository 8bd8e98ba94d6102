"""Ways of speaking. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_personas(add: Add) -> None:
    """The personas that come with the plugin."""
    for name, text in (
        ("tecnico", "Precise and to the point, with the terms of the field"),
        ("casual", "Relaxed, as among friends"),
        ("formal", "Courteous and impersonal"),
        ("balanced", "Clear and kind, neither stiff nor slangy"),
        ("academic", "Careful and structured, says what is certain and what is not"),
        ("friendly", "Warm and encouraging"),
    ):
        add("persona", name, f"luna_plugin_personas.shipped:{name}", help=text)


@hookimpl
def luna_add_chat(add: Add) -> None:
    """The step that applies a persona, and its command."""
    add(
        "step",
        "persona",
        "luna_plugin_personas.step:PersonaStep",
        config="luna_plugin_personas.config:PersonaStepConfig",
        help="Speaks as the chosen persona",
    )
    add("command", "persona", "luna_plugin_personas.commands:PersonaCommand", help="/persona NAME: how Luna speaks")
