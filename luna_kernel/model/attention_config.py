"""Configuration of the kernel's attention."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luna_kernel.base.messages import catalogue

t = catalogue(__package__)


class AttentionConfig(BaseModel):
    """Grouped-query attention; the numbers of heads are the model's own (`dims`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    qk_norm: bool = False
    """RMSNorm over each head of queries and keys before the rotation (as in Qwen3)."""
    window: int | None = Field(default=None, ge=1)
    """Tokens that a token sees, itself included; None: all earlier ones."""
    sinks: int = Field(default=0, ge=0)
    """First tokens of a sample that stay in sight when the window has left them behind; only with a window."""
    qkv_bias: bool = False
    """A bias on queries, keys and values (as in Qwen2)."""
    out_bias: bool = False
    """A bias on the output (Llama with `attention_bias`)."""

    @model_validator(mode="after")
    def _check(self) -> AttentionConfig:
        if self.sinks and self.window is None:
            raise ValueError(t("attention.sinks", sinks=self.sinks))
        return self
