"""What one can set about dense search."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class FaissConfig(BaseModel):
    """Settings of the dense retriever."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: dict[str, Any] = Field(default_factory=lambda: {"name": "lsa"})
    """The encoder as a node: its name and its own settings; a name alone may be given as text."""
    min_score: float = Field(default=0.05, ge=-1, le=1)
    """Least cosine of a hit; nearer to 0 lies only chance."""
    refit_growth: float = Field(default=0.5, ge=0)
    """Share of chunks that may be new since the encoder was fitted before all is built anew."""

    @field_validator("encoder", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        node = {"name": value} if isinstance(value, str) else value
        if isinstance(node, dict) and not isinstance(node.get("name"), str):
            raise ValueError("the encoder needs a name")  # noqa: TRY004  pydantic reports it with its place
        return node


class LsaConfig(BaseModel):
    """Settings of the encoder that is fitted on the documents."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dimension: int = Field(default=256, ge=2, le=4096)
    """Length of the vectors; never more than there are texts to learn from."""
    min_n: int = Field(default=3, ge=2, le=8)
    """Length of the shortest part of a word, in characters."""
    max_n: int = Field(default=5, ge=2, le=8)
    """Length of the longest part of a word, in characters."""
    max_features: int = Field(default=50_000, ge=100)
    """How many stems and parts of words are kept, the most frequent ones."""
    seed: int = 0
    """Seed of the randomised decomposition."""
