"""How the next token is chosen; free of torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Sampling(BaseModel):
    """How the next token is chosen. Applied in the order of the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repetition_penalty: float = Field(default=1.0, ge=1e-6, le=1e6)
    """Above 1 makes tokens that are in the prompt or the answer less likely."""
    temperature: float = Field(default=0.8, ge=0)
    """0 takes the most likely token, and nothing below matters."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k most likely tokens; 0: all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the most likely tokens that together reach this probability."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Keep tokens of at least this share of the most likely one's probability."""
    seed: int | None = Field(default=None, ge=0)
    """Same seed, same model, same prompt: same answer. None: another one each time."""
