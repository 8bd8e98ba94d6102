"""How a model is opened for a chat: what the settings say, what the hardware backend proposes and `--adapt` takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.messages import catalogue

from .app import App

if TYPE_CHECKING:
    from luna_kernel.base.settings import Settings
    from luna_kernel.contracts.backends import Proposal
    from luna_kernel.model.checkpoint import OpenedModel
    from luna_kernel.model.decoder import Decoder

t = catalogue(__package__)


@dataclass(frozen=True)
class Opening:
    """How to open it."""

    low_memory: bool = False
    cache_limit: int | None = None
    precision: str | None = None
    """`fp32`, `bf16`, or None: as the weights are stored."""
    experts_per_token: int | None = None
    """At most so many in each layer; None: as the model was trained."""


def plan_opening(app: App, settings: Settings, folder: Path, device: str, *, adapt: bool) -> Opening:
    """The settings, and the proposals for what they leave open: said each with its reason, taken with `adapt`."""
    names = ("low_memory", "cache_limit", "experts_per_token")
    opening = Opening(bool(settings.low_memory), settings.cache_limit, experts_per_token=settings.experts_per_token)
    chosen = {name for name in names if getattr(settings, name) is not None}
    found = [one for one in proposals(app, folder, device) if one.change not in chosen]
    if adapt and not found:
        app.say(t("adapt.nothing", device=device))
    for one in found:
        what = t(f"adapt.{one.change}", value=one.value)
        app.say(t("adapt.taken" if adapt else "adapt.proposed", what=what, reason=one.reason))
        if adapt:
            change: dict[str, Any] = {one.change: one.value}
            opening = replace(opening, **change)
    return opening


def proposals(app: App, folder: Path, device: str) -> list[Proposal]:
    """What the backend of the device proposes for the model; nothing where no plugin brings one."""
    from luna_kernel.model.facts import model_facts

    registry = app.plugins().registry
    component = registry.find("backend", device.partition(":")[0])
    if component is None:
        return []
    found: list[Proposal] = component.load()().proposals(model_facts(folder, registry))
    return found


def open_for_chat(app: App, folder: Path, opening: Opening, **options: Any) -> OpenedModel:
    """Open the model in that way, and say what was changed."""
    import torch

    from luna_kernel.model.checkpoint import open_model

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(opening.precision or "")
    opened = open_model(folder, dtype=dtype, offload=opening.low_memory, **options)
    if opening.low_memory:
        app.say(t("run.offloaded", count=len(opened.model.blocks)))
    if opening.cache_limit is not None:
        app.say(_limit_cache(opened.model, opening.cache_limit))
    if opening.experts_per_token is not None:
        app.say(_limit_experts(opened.model, opening.experts_per_token))
    return opened


def _limit_experts(model: Decoder, most: int) -> str:
    """Keep the limit of experts; one line that says what it changed."""
    from luna_kernel.model.fewer_experts import limit_experts

    lowered = limit_experts(model, most)
    if not lowered:
        return t("run.experts_unchanged", most=most)
    return t("run.experts_limited", most=most, count=len(lowered), before=max(one.before for one in lowered))


def _limit_cache(model: Decoder, limit: int) -> str:
    """Keep the cache limit; one line that says what it changed."""
    from luna_kernel.model.cache_limit import limit_cache

    narrowed = limit_cache(model, limit)
    if not narrowed:
        return t("run.cache_unchanged", limit=limit)
    widest = max(narrowed, key=lambda one: one.window)
    return t("run.cache_limited", limit=limit, count=len(narrowed), sinks=widest.sinks, window=widest.window)
