"""Hypernetwork adapters: what this plugin adds. Importing it imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1


@hookimpl
def luna_add_layers(add: Add) -> None:
    """Two modulators, for who asks for them: a plugin that is merely installed changes no model."""
    add(
        "modulator",
        "hyper_adapter",
        "luna_plugin_hypernet.layer:HyperAdapter",
        config="luna_plugin_hypernet.config:HyperConfig",
        help="Adapter whose weights come from a condition vector, or from the text so far",
    )
    add(
        "modulator",
        "domain_adapter",
        "luna_plugin_hypernet.domain:DomainSpecificHyperAdapter",
        config="luna_plugin_hypernet.config:DomainConfig",
        place="ffn of every block",
        automatic=False,
        help="Adapter by domain: the given one, or a mixture inferred from the text so far",
    )


@hookimpl
def luna_add_chat(add: Add) -> None:
    """The command that chooses the domain."""
    add("command", "domain", "luna_plugin_hypernet.command:DomainCommand", help="/domain [NAME|off]")
