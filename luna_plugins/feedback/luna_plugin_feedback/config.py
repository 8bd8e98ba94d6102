"""Configuration of the callback."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FreezeConfig(BaseModel):
    """Of the callback `freeze`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.5, gt=0, lt=1)
    """Share of the blocks that stay as they are, from the lowest on, rounded down; the embedding stays too."""
