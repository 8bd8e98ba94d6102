"""Configuration of the position schemes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luna_kernel.base.messages import catalogue
from luna_kernel.model.rope_config import RotaryConfig

t = catalogue(__package__)


class AlibiConfig(BaseModel):
    """Attention with linear biases."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scale: float = Field(default=1.0, gt=0)
    """Multiplies all slopes: less lets every head look further back."""


class BucketedConfig(BaseModel):
    """T5's relative bias."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_buckets: int = Field(default=32, ge=2)
    """Buckets of distances: the first half hold one distance each, the others grow in the logarithm."""
    max_distance: int = Field(default=128, ge=2)
    """From this distance on all are in the last bucket."""

    @model_validator(mode="after")
    def _check(self) -> BucketedConfig:
        if self.max_distance <= self.num_buckets // 2:
            raise ValueError(t("t5.distance", max_distance=self.max_distance, exact=self.num_buckets // 2))
        return self


class RelationalConfig(BaseModel):
    """A bias on who speaks and how many turns ago, beside RoPE."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_buckets: int = Field(default=8, ge=2)
    """Buckets of turn distances: the first half hold one distance each, the others grow in the logarithm."""
    max_turns: int = Field(default=32, ge=2)
    """From this distance on all are in the last bucket."""
    speakers: tuple[tuple[int, ...], ...] = ((-6,), (-5, -3, -2), (-4,))
    """For each speaker the ids that open a turn of theirs; a negative id counts from the end of the vocabulary.
    Default: where Luna's own tokenizers keep user; assistant, thinking, proactive; system."""
    rope: RotaryConfig | None = RotaryConfig()
    """The rotary embedding for the order of tokens inside a turn; None: without it."""

    @model_validator(mode="after")
    def _check(self) -> RelationalConfig:
        if self.max_turns <= self.num_buckets // 2:
            raise ValueError(t("relational.turns", max_turns=self.max_turns, exact=self.num_buckets // 2))
        ids = [id_ for group in self.speakers for id_ in group]
        if not ids or len(set(ids)) < len(ids) or not all(self.speakers):
            raise ValueError(t("relational.speakers", speakers=self.speakers))
        return self
