"""An upper bound on the tokens that any attention of a model keeps while it generates.

Attention that would keep more is narrowed to a window and sinks (Xiao et al. 2023, arXiv 2309.17453). The weights stay
valid; what the model sees does not stay the same, so whoever asks for it is told what was changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

from .attention import Attention
from .decoder import Decoder
from .kv_cache import spare_slots, window_slots

t = catalogue(__package__)

LEAST = 16
"""The smallest limit."""
SINKS = 4
"""First tokens that narrowed attention keeps in sight (the paper's number)."""


@dataclass(frozen=True)
class Narrowed:
    """One attention that was narrowed."""

    place: str
    """Its module, such as `blocks.1.mixer`."""
    before: int | None
    """Its window before; None: it saw everything."""
    window: int
    sinks: int


def limit_cache(model: Decoder, limit: int) -> list[Narrowed]:
    """Narrow every attention, nested ones too, so that none keeps more than `limit` tokens; says which.

    Call it before `make_state`. Prompts are then read in pieces small enough for the caches to stay within it.

    Raises:
        UsageError: `limit` is below `LEAST`.
    """
    if limit < LEAST:
        raise UsageError(t("cache_limit.too_small", limit=limit, least=LEAST))
    found: list[Narrowed] = []
    for place, module in model.named_modules():
        if isinstance(module, Attention) and not _fits(module, limit):
            before = module.window
            module.sinks = min(module.sinks if before is not None else SINKS, limit // 4)
            module.window = _widest(limit, module.sinks)
            found.append(Narrowed(place, before, module.window, module.sinks))
    model.prefill_piece = _piece(model, model.prefill_piece)
    return found


def _fits(attention: Attention, limit: int) -> bool:
    return attention.window is not None and window_slots(attention.window, attention.sinks) <= limit


def _widest(limit: int, sinks: int) -> int:
    """The widest window whose cache has no more than `limit` slots."""
    window = limit - sinks
    while window_slots(window, sinks) > limit:
        window -= 1
    return window


def _piece(model: nn.Module, most: int) -> int:
    windows = [module.window for module in model.modules() if isinstance(module, Attention)]
    return min([most, *(spare_slots(window) for window in windows if window is not None)])
