"""What one can set about TF-IDF."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TfidfConfig(BaseModel):
    """Settings of the TF-IDF retriever."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_n: int = Field(default=3, ge=1, le=8)
    """Length of the shortest n-gram, in characters."""
    max_n: int = Field(default=5, ge=1, le=8)
    """Length of the longest n-gram, in characters."""
    stop_words: bool = True
    """Whether words that say nothing (`de`, `para`, `qual`) are left out."""

    @model_validator(mode="after")
    def _order(self) -> TfidfConfig:
        if self.min_n > self.max_n:
            raise ValueError("min_n must not exceed max_n")
        return self
