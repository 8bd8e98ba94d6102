"""Configuration of the kernel's attention."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AttentionConfig(BaseModel):
    """Grouped-query attention; the numbers of heads are the model's own (`dims`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    qk_norm: bool = False
    """RMSNorm over each head of queries and keys before the rotation (as in Qwen3)."""
    window: int | None = Field(default=None, ge=1)
    """Tokens that a token sees, itself included; None: all earlier ones."""
    qkv_bias: bool = False
    """A bias on queries, keys and values (as in Qwen2)."""
    out_bias: bool = False
    """A bias on the output (Llama with `attention_bias`)."""
