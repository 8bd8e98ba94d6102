"""Configurations of the objectives and of the callback."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DpoConfig(BaseModel):
    """Of the objective `dpo`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta: float = Field(0.1, gt=0)
    """How strongly the model is held to the reference: larger keeps it nearer."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of pairs that are believed to be the wrong way round."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the better answer's own loss, in nats per token, beside the preference: without it the probability of
    both answers may fall."""
    max_tokens: int | None = Field(None, ge=8)
    """Longest prompt with one answer; older turns of a longer one are left out, and a pair that is too long without
    them is passed over. None: whatever fits into half a row."""


class KtoConfig(BaseModel):
    """Of the objective `kto`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    beta: float = Field(0.1, gt=0)
    """How strongly the model is held to the reference."""
    desirable_weight: float = Field(1.0, gt=0)
    """Weight of answers that were liked."""
    undesirable_weight: float = Field(1.0, gt=0)
    """Weight of answers that were not."""
    max_tokens: int | None = Field(None, ge=8)
    """Longest prompt with its answer, as in `dpo`."""


class ReplayConfig(BaseModel):
    """Of the callback `replay`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[str, ...] = Field(min_length=1)
    """Files, folders or patterns of what is repeated."""
    every: int = Field(1, ge=1)
    """Steps between two repetitions."""
    batch_size: int = Field(4, ge=1)
    """Rows of one repetition."""
    lr_scale: float = Field(1.0, gt=0)
    """Its learning rate, as a multiple of the step's."""
