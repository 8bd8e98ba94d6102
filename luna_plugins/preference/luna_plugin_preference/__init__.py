"""Learning from preferences: what this plugin adds. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_training(add: Add) -> None:
    """Two objectives."""
    add(
        "objective",
        "dpo",
        "luna_plugin_preference.objective:DirectPreference",
        config="luna_plugin_preference.config:DpoConfig",
        help="Direct preference optimisation: of two answers to one prompt, the better one",
    )
    add(
        "objective",
        "kto",
        "luna_plugin_preference.objective:KahnemanTversky",
        config="luna_plugin_preference.config:KtoConfig",
        help="Kahneman-Tversky optimisation: single answers, each liked or not",
    )


@hookimpl
def luna_add_callbacks(add: Add) -> None:
    """What is not to be forgotten."""
    add(
        "callback",
        "replay",
        "luna_plugin_preference.callback:Replay",
        config="luna_plugin_preference.config:ReplayConfig",
        help="Repeats older dialogues and texts between the steps, so that they are not forgotten",
    )
