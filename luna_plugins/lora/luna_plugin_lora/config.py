"""Configuration of the adapter."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class LowRankConfig(BaseModel):
    """Of the adapter `lora`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(8, ge=1)
    """Columns of the thin matrices; more than a layer's shorter side is cut to it."""
    alpha: float = Field(16.0, gt=0)
    """What is learnt is multiplied by `alpha / rank`, so that another rank wants no other learning rate."""
    lr_scale: float = Field(10.0, gt=0)
    """Learning rate of the adapters, as a multiple of the run's: they begin at nothing and have few weights."""
