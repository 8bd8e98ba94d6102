"""An upper bound on the experts that work on a token of a model in use.

The weights stay valid and the rest of the routing stays as it is, but the model does not compute the same: whoever
asks for it is told what was changed. No memory is freed; fewer weights are read.
"""

from __future__ import annotations

from dataclasses import dataclass

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.routers import Router

from .decoder import Decoder

t = catalogue(__package__)


@dataclass(frozen=True)
class Lowered:
    """One router that chooses fewer."""

    place: str
    """Its module, such as `blocks.1.ffn.router`."""
    before: int
    after: int


def limit_experts(model: Decoder, most: int) -> list[Lowered]:
    """Let every router choose at most `most` experts; says which chose more.

    Raises:
        UsageError: `most` is below 1.
    """
    if most < 1:
        raise UsageError(t("experts_per_token.too_few", most=most))
    found = []
    for place, module in model.named_modules():
        if isinstance(module, Router) and module.top_k > most:
            found.append(Lowered(place, module.top_k, most))
            module.top_k = most
    return found
