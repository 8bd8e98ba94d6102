"""Configuration of the kernel's feed-forward layer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SwiGLUConfig(BaseModel):
    """Gated feed-forward layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden_dim: int | None = Field(default=None, ge=1)
    """Inner width; None: the model's `ffn_dim`."""
    bias: bool = False
    """A bias on all three matrices (Llama with `mlp_bias`)."""
