"""Learning-rate schedules: multipliers of every group's own rate, as functions of the step and of the share done."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field

from luna_kernel.contracts.training import Schedule


class WSDConfig(BaseModel):
    """Warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    warmup_steps: int = Field(20, ge=0)
    """Steps of linear rise from near 0."""
    decay_share: float = Field(0.2, ge=0, le=1)
    """Share of the run, at its end, in which the rate falls linearly."""
    final: float = Field(0.0, ge=0, le=1)
    """What the multiplier falls to."""


class CosineConfig(BaseModel):
    """Warm-up, then half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    warmup_steps: int = Field(20, ge=0)
    """Steps of linear rise from near 0."""
    final: float = Field(0.1, ge=0, le=1)
    """What the multiplier falls to."""


def _warmup(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / (steps + 1))


class WarmupStableDecay(Schedule):
    """min(warm-up, decay)."""

    config: WSDConfig

    def multiplier(self, step: int, progress: float) -> float:
        """See `Schedule`."""
        share, final = self.config.decay_share, self.config.final
        left = 1.0 if share == 0 else min(1.0, max(0.0, 1.0 - progress) / share)
        return min(_warmup(step, self.config.warmup_steps), final + (1.0 - final) * left)


class WarmupCosine(Schedule):
    """min(warm-up, cosine)."""

    config: CosineConfig

    def multiplier(self, step: int, progress: float) -> float:
        """See `Schedule`."""
        final = self.config.final
        fall = 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        return min(_warmup(step, self.config.warmup_steps), final + (1.0 - final) * fall)
