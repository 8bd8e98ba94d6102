"""Configuration of the rotary position embedding."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luna_kernel.base.messages import catalogue

t = catalogue(__package__)


class RotaryConfig(BaseModel):
    """Rotary position embedding, half rotation as in Llama's checkpoints on the hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    theta: float = Field(default=10000.0, gt=0)
    """Base of the wavelengths: pair i of a head of n pairs turns by theta^(-i/n) radians per token."""
    scaling: Literal["none", "linear", "ntk", "yarn", "llama3"] = "none"
    """How a longer context than the trained one is reached: `linear` divides all angles by `factor`; `ntk` raises
    `theta`; `yarn` and `llama3` divide only those of long wavelengths, with a smooth passage."""
    factor: float = Field(default=1.0, ge=1)
    """Of every scaling: how many times longer."""
    low_freq_factor: float = Field(default=1.0, gt=0)
    """Of `llama3`: wavelengths above `original_max_positions / low_freq_factor` are stretched fully."""
    high_freq_factor: float = Field(default=4.0, gt=0)
    """Of `llama3`: wavelengths below `original_max_positions / high_freq_factor` stay."""
    original_max_positions: int = Field(default=8192, ge=1)
    """Of `yarn` and `llama3`: the context length of the first training."""
    beta_fast: float = Field(default=32.0, gt=0)
    """Of `yarn`: pairs that turn so often in the trained context stay."""
    beta_slow: float = Field(default=1.0, gt=0)
    """Of `yarn`: pairs that turn so often or less are stretched fully."""
    attention_factor: float | None = Field(default=None, gt=0)
    """Of `yarn`: what cos and sin are multiplied by. Default: 0.1 ln(`factor`) + 1."""

    @model_validator(mode="after")
    def _check(self) -> RotaryConfig:
        if self.beta_fast <= self.beta_slow:
            raise ValueError(t("rope.betas", fast=self.beta_fast, slow=self.beta_slow))
        return self
