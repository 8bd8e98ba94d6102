"""Configuration of the collaborative experts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luna_kernel.base.messages import catalogue

t = catalogue(__package__)


class MoCConfig(BaseModel):
    """Mixture of Collaborative Experts. With `context: none` and `fusion: sum` it is a plain sparse mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_experts: int = Field(default=8, ge=2, le=1024)
    """How many experts a block has."""
    top_k: int = Field(default=2, ge=1)
    """How many of them work on a token."""
    expert_dim: int | None = Field(default=None, ge=1)
    """Hidden width of one expert. Default: the model's `ffn_dim` divided by `top_k`, rounded to a multiple of 16, so
    that as many parameters work on a token as in the dense layer."""
    shared_dim: int = Field(default=0, ge=0)
    """Hidden width of an expert that works on every token beside the chosen ones; 0: there is none."""
    router: dict[str, Any] | None = Field(default={"name": "topk"})
    """The node of the router, a component: `{name: topk}`. None with `context: autonomy`, which has none."""
    context: Literal["full", "low_rank", "autonomy", "none"] = "low_rank"
    """What the router knows of the experts. `low_rank`: each expert shows a small probe and the probes attend to each
    other. `full`: every expert runs on every token and their outputs attend to each other (not sparse).
    `autonomy`: there is no router; each expert begins to work, and those that are stirred most go on.
    `none`: a router that sees the token alone."""
    context_heads: int | None = Field(default=1, ge=1)
    """Heads of that attention (`low_rank` and `full`); null: 1 for `low_rank`, the model's `num_heads` for `full`. With
    one, half of the projections of `full` fold away."""
    full_gradient: Literal["all", "chosen"] = "all"
    """Who learns from the meeting (`full` only). `all`: every expert, also from what its word did to the choice of
    others. `chosen`: the chosen experts learn from their answer, the meeting from the choice; little more than half
    of the time."""
    autonomy_rank: int | None = Field(default=None, ge=1)
    """Rank of the gates (`autonomy` only). Default: a quarter of the model's width."""
    probe_rank: int | None = Field(default=None, ge=1)
    """Size of a probe (`low_rank` only). Default: a sixteenth of the model's width, at least 16."""
    calibration_weight: float = Field(default=0.01, ge=0)
    """Weight of the loss that makes the probe of a chosen expert foretell a fixed sketch of its output; 0: none
    (`low_rank` only)."""
    fusion: Literal["attend", "chain", "sum"] = "attend"
    """What the chosen experts do with their outputs. `attend`: they confer in a small attention before the weighted
    sum. `chain`: they work in rounds, each on what the rounds before have made. `sum`: the weighted sum alone."""
    fusion_dim: int | None = Field(default=None, ge=1)
    """Width of that attention (`attend` only). Default: an eighth of the model's width, at least 16. With both defaults
    meeting and talk are some 3 % of the operations, at any width."""
    mediator: bool = False
    """Whether a learned state takes part in that attention and has a conclusion of its own (`attend` only)."""
    rounds: int = Field(default=2, ge=1)
    """Rounds of a chain; each has a router of its own and `top_k / rounds` experts (`chain` only)."""
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
        """(experts, those that work on a token); None where all speak, or where no router's K could be lowered."""
        fixed = self.context in ("full", "autonomy") or self.fusion == "chain"
        return None if fixed else (self.num_experts, self.top_k)

    @model_validator(mode="before")
    @classmethod
    def _router_or_autonomy(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        if fields.get("context") == "autonomy":
            if fields.get("router") is not None:
                raise ValueError(t("router.autonomy"))
            return {**fields, "router": None}
        if "router" in fields and fields["router"] is None:
            raise ValueError(t("router.none"))
        return fields

    @model_validator(mode="after")
    def _check(self) -> MoCConfig:
        if self.top_k > self.num_experts:
            raise ValueError(t("top_k.too_many", top_k=self.top_k, num_experts=self.num_experts))
        heads = self.context_heads or 1
        if self.context == "low_rank" and (self.probe_rank or heads) % heads:
            raise ValueError(t("probe.heads", size=self.probe_rank, heads=heads))
        if self.fusion == "chain" and self.top_k % self.rounds:
            raise ValueError(t("chain.rounds", top_k=self.top_k, rounds=self.rounds))
        if self.mediator and self.fusion != "attend":
            raise ValueError(t("mediator.attend", fusion=self.fusion))
        return self


class ContextualConfig(BaseModel):
    """The router whose experts confer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scores: Literal["softmax", "sigmoid"] = "softmax"
    """How logits become scores, as in `topk`."""
    probe_rank: int | None = Field(default=None, ge=1)
    """Size of a probe. Default: a sixteenth of the model's width, at least 16."""
    heads: int = Field(default=1, ge=1)
    """Heads of the attention between the experts' probes."""

    @model_validator(mode="after")
    def _check(self) -> ContextualConfig:
        if (self.probe_rank or self.heads) % self.heads:
            raise ValueError(t("probe.heads", size=self.probe_rank, heads=self.heads))
        return self
