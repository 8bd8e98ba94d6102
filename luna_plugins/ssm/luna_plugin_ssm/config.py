"""Configuration of the state-space mixer and of the hybrid."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luna_kernel.base.messages import catalogue
from luna_kernel.model.attention_config import AttentionConfig

t = catalogue(__package__)


class StateSpaceConfig(BaseModel):
    """Selective state space in the Mamba-2 form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    expand: int = Field(default=1, ge=1)
    """Inner width as a multiple of the model's width. At 1 a layer has about the parameters of an attention layer; at
    2, Mamba's own choice for blocks without a feed-forward layer, it has about one and a half times as many."""
    head_dim: int | None = Field(default=None, ge=1)
    """Channels of one head. Default: the largest power of two up to 64 that divides the inner width into four heads or
    more."""
    state_dim: int = Field(default=128, ge=1)
    """Numbers that each channel remembers."""
    conv_width: int = Field(default=4, ge=0)
    """Tokens that the short causal convolution sees; 0: there is no convolution."""
    chunk_size: int = Field(default=64, ge=1)
    """Tokens that the scan treats as one matrix product. Changes speed, not the result."""
    step_min: float = Field(default=2e-4, gt=0)
    """Smallest initial step: its head remembers about 1 / step_min tokens."""
    step_max: float = Field(default=0.1, gt=0)
    """Largest initial step. The heads' steps are spread between the two, evenly in the logarithm."""

    @model_validator(mode="after")
    def _check(self) -> StateSpaceConfig:
        if self.step_min > self.step_max:
            raise ValueError(t("steps.order", low=self.step_min, high=self.step_max))
        return self


class HybridConfig(BaseModel):
    """Attention and a state space on the same input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attention: AttentionConfig = AttentionConfig()
    """The attention's configuration."""
    ssm: StateSpaceConfig = StateSpaceConfig()
    """The state space's configuration."""
