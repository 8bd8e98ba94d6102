"""Configuration of the mixture of experts and of its routers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luna_kernel.base.messages import catalogue

t = catalogue(__package__)


class MoEConfig(BaseModel):
    """Mixture of experts: each token is worked on by `top_k` of `num_experts`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_experts: int = Field(default=8, ge=2, le=1024)
    """How many experts a block has."""
    top_k: int = Field(default=2, ge=1)
    """How many of them work on a token."""
    expert_dim: int | None = Field(default=None, ge=1)
    """Hidden width of one expert. Default: such that as many parameters work on a token as in the dense layer: the
    model's `ffn_dim` divided by `top_k`, for `gelu` times 1.5, rounded to a multiple of 16."""
    activation: Literal["swiglu", "gelu"] = "swiglu"
    """What an expert is. `swiglu`: W₂(silu(W₁x) ⊙ W₃x). `gelu`: W₂ gelu(W₁x)."""
    shared_dim: int = Field(default=0, ge=0)
    """Hidden width of an expert that works on every token beside the chosen ones; 0: there is none."""
    router: dict[str, Any] = Field(default={"name": "topk"})
    """The node of the router, a component: `{name: topk}`, `{name: emotional}`, `{name: hash}`."""
    capacity_factor: float | None = Field(default=None, gt=0)
    """In training only: an expert takes at most this many times its even share of the pairs of token and expert, the
    first of the batch first; the rest are dropped and counted in `moe/dropped`. Default: nothing is ever dropped."""
    balance: Literal["bias", "switch", "none"] = "bias"
    """How the load is evened out. `bias`: after each optimiser step the selection bias of a busy expert falls and that
    of an idle one rises, without a loss. `switch`: the loss of the Switch Transformer."""
    bias_rate: float = Field(default=1e-3, gt=0)
    """Step of the selection bias (`bias` only)."""
    balance_weight: float = Field(default=0.01, ge=0)
    """Weight of the balance loss (`switch` only)."""
    z_loss_weight: float = Field(default=1e-3, ge=0)
    """Weight of the mean squared log-partition of the router, which keeps its logits small; 0: none."""

    @property
    def resting_experts(self) -> tuple[int, int] | None:
        """(experts, those that work on a token): the others rest; see `docs/kinds/layers.md`."""
        return self.num_experts, self.top_k

    @model_validator(mode="after")
    def _check(self) -> MoEConfig:
        if self.top_k > self.num_experts:
            raise ValueError(t("top_k.too_many", top_k=self.top_k, num_experts=self.num_experts))
        return self


class UpcycleConfig(BaseModel):
    """Turning dense layers into mixtures of their copies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    place: str = "every 2nd block"
    """The blocks whose dense feed-forward becomes a mixture."""
    layer: dict[str, Any] = Field(default={"name": "moe"})
    """The node of the mixture: `{name: moe, num_experts: 8, top_k: 2}`, or of another layer whose experts lie in `w13`
    and `w2`, such as `{name: moc}`. Its `expert_dim` is set to the dense layer's width."""


class TopKConfig(BaseModel):
    """The linear router."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scores: Literal["softmax", "sigmoid"] = "softmax"
    """How logits become scores. `softmax`: experts compete. `sigmoid`: each is judged on its own, and the chosen ones'
    scores are made to sum to 1."""


class HashConfig(BaseModel):
    """The router that looks at the token's id alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Another seed sends the same ids to other experts."""


class EmotionalConfig(TopKConfig):
    """The linear router that an emotion moves."""

    rank: int = Field(default=8, ge=1)
    """r, the number of products of a direction of x and a direction of the emotion that move the scores."""
    head: bool = False
    """Whether a head foretells the emotion of each token from what was read so far. It is trained on labels
    (`emotion_label` in the data) by a loss of its own, and speaks where no emotion is given."""
    head_weight: float = Field(default=0.1, ge=0)
    """Weight of that loss (`head` only)."""
