"""What one can set about BM25."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BM25Config(BaseModel):
    """Settings of the BM25 retriever."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["luna", "bm25s", "rank_bm25"] = "luna"
    """Which library searches; Luna's own takes changes at once, the others are made anew after each."""
    k1: float = Field(default=1.2, ge=0, le=10)
    """How soon repetitions of a word stop counting; 0: only whether it occurs."""
    b: float = Field(default=0.75, ge=0, le=1)
    """How much long chunks are held back; 0: not at all."""
    expansion: float = Field(default=0.0, ge=0, le=1)
    """Weight of words of the same family (`morreu`, `morte`) beside the question's own; 0: they are not looked for."""
    stemming: bool = True
    """Whether the forms of a word count as one (`casas` finds `casa`)."""
    stop_words: bool = True
    """Whether words that say nothing (`de`, `para`, `qual`) are left out."""
    extra_stop_words: tuple[str, ...] = ()
    """Further words to leave out, for a field in which they are everywhere."""

    @model_validator(mode="after")
    def _expands_alone(self) -> BM25Config:
        if self.expansion and (self.engine != "luna" or not self.stemming):
            raise ValueError("expansion needs engine luna, and stemming")
        return self
