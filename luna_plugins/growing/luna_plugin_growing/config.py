"""Configurations of the growers and of the callback that says when."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from luna_kernel.base.messages import catalogue

t = catalogue(__package__)


class DepthConfig(BaseModel):
    """New blocks that leave the function as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: int = Field(default=1, ge=1)
    """How many blocks to add, spread evenly: one after each of so many groups of blocks, a copy of the group's last."""
    after: tuple[int, ...] = ()
    """Instead of `blocks`: the blocks, counted from 0, after each of which a copy of it goes."""


class StackConfig(BaseModel):
    """The depth, several times."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    times: int = Field(default=2, ge=2)
    """How many times as deep."""


class WidthConfig(BaseModel):
    """Wider dense layers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ffn: float = Field(default=2.0, ge=1, le=16)
    """How many times as many hidden units in every feed-forward layer; 1: as many as now."""
    d_model: float = Field(default=1.0, ge=1, le=16)
    """How many times as wide the residual stream; 1: as now."""
    multiple: int = Field(default=8, ge=1)
    """New widths are rounded up to a multiple of it."""

    @model_validator(mode="after")
    def _check(self) -> WidthConfig:
        if self.ffn == self.d_model == 1:
            raise ValueError(t("width.nothing"))
        return self


class GrowConfig(BaseModel):
    """When the model grows, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grower: dict[str, Any] = Field(default_factory=lambda: {"name": "depth"})
    """`depth`, `width` or `stack`, by name or as a node with its fields."""
    window: int = Field(default=10, ge=4)
    """Measurements on held-out data that the test looks at."""
    min_improvement: float = Field(default=0.01, gt=0, lt=1)
    """A fall of the loss worth waiting for: over the window, as a share of the loss."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """How sure the test must be that the loss falls by less than that."""
    cooldown: int = Field(default=3, ge=0)
    """Measurements after a growth that are not looked at."""
    max_growths: int = Field(default=1, ge=1)
    """How often it may find a plateau and grow."""
    until: float = Field(default=0.7, gt=0, le=1)
    """Share of the run after which a plateau no longer makes it grow: what is new needs time to learn."""
    at_steps: tuple[int, ...] = ()
    """Instead of looking for a plateau: grow after these steps."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps in which the learning rate of new parameters rises."""
    lr_scale: float = Field(default=1.0, gt=0)
    """Learning rate of new parameters, as a multiple of the others'."""

    @field_validator("grower", mode="before")
    @classmethod
    def _node(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> GrowConfig:
        if not isinstance(self.grower.get("name"), str):
            raise ValueError(t("grow.no_name"))  # noqa: TRY004 - pydantic turns it into a ConfigError
        if any(step < 1 for step in self.at_steps):
            raise ValueError(t("grow.steps"))
        return self
