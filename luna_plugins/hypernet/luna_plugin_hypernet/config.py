"""Configuration of the adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Form = Literal["low_rank", "bases", "film"]


class GeneratorConfig(BaseModel):
    """What the generator makes, and how large it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Form = "low_rank"
    """What is generated: both matrices of a low-rank update; the scale of each direction of a learned one (`bases`,
    cheaper); or scale and shift of each channel (`film`)."""
    rank: int = Field(default=8, ge=1)
    """Rank of the update; `film` has none."""
    hidden: int = Field(default=16, ge=1)
    """Width of the generator."""
    scale: float = Field(default=1.0, gt=0)
    """What the update is multiplied by."""


class HyperConfig(GeneratorConfig):
    """An adapter that reads a condition, or the text itself."""

    source: Literal["condition", "text"] = "condition"
    """`text`: the generator reads the running mean of the text so far, and no condition."""
    condition: str = Field(default="domain", min_length=1)
    """Name of the condition: `domain`, `persona`, `emotion`."""
    width: int = Field(default=16, ge=1)
    """Dimensions that the condition may have, or that the text's summary gets."""


class DomainConfig(GeneratorConfig):
    """An adapter by domain."""

    form: Form = "bases"
    """As for `hyper_adapter`."""
    condition: str = Field(default="domain", min_length=1)
    """Name of the condition that says the domain where it is known."""
    domains: int = Field(default=16, ge=2)
    """Domains that it may have."""
    embedding: int = Field(default=16, ge=1)
    """Width of a domain's vector."""
    label_weight: float = Field(default=0.1, ge=0)
    """Weight of the loss that teaches to infer the domain, where the data say it."""
    entropy_weight: float = Field(default=0.0, ge=0)
    """Weight of the inferred mixture's entropy as a loss: towards one domain per text."""
