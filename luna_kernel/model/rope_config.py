"""Configuration of the rotary position embedding."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RotaryConfig(BaseModel):
    """Rotary position embedding, half rotation as in Llama's checkpoints on the hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    theta: float = Field(default=10000.0, gt=0)
    """Base of the wavelengths: pair i of a head of n pairs turns by theta^(-i/n) radians per token."""
    scaling: Literal["none", "linear", "llama3"] = "none"
    """How a longer context than the trained one is reached: `linear` divides all angles by `factor`; `llama3` only
    those of long wavelengths, with a smooth passage."""
    factor: float = Field(default=1.0, ge=1)
    """Of `linear` and `llama3`: how many times longer."""
    low_freq_factor: float = Field(default=1.0, gt=0)
    """Of `llama3`: wavelengths above `original_max_positions / low_freq_factor` are stretched fully."""
    high_freq_factor: float = Field(default=4.0, gt=0)
    """Of `llama3`: wavelengths below `original_max_positions / high_freq_factor` stay."""
    original_max_positions: int = Field(default=8192, ge=1)
    """Of `llama3`: the context length of the first training."""
