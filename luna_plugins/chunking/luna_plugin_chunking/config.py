"""What one can set about chunks."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ChunkConfig(BaseModel):
    """Settings that every strategy has. Sizes are in tokens with `tokenizer`, else in `unit`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_size: int = Field(default=900, ge=16, le=1_000_000)
    """Size of a chunk at most; never exceeded."""
    min_size: int = Field(default=200, ge=0)
    """Smaller chunks take in what follows where the limit allows it."""
    tokenizer: str | None = None
    """A tokenizer.json or a model's folder: sizes are in its tokens."""
    unit: Literal["characters", "words"] = "characters"
    """What sizes count without a tokenizer."""
    preserve_sentences: bool = True
    """Cut between sentences where one fits the limit; `fixed` always fills to the limit."""
    preserve_paragraphs: bool = True
    """End with a paragraph rather than within the next one, once `min_size` is reached."""

    @model_validator(mode="after")
    def _order(self) -> ChunkConfig:
        if self.min_size > self.max_size:
            raise ValueError("min_size must not exceed max_size")
        return self


class OverlappingConfig(ChunkConfig):
    """Settings of the chunker `overlapping`."""

    overlap: int = Field(default=100, ge=0)
    """Size of the whole sentences that two neighbours share at most."""

    @model_validator(mode="after")
    def _overlap(self) -> OverlappingConfig:
        if self.overlap * 2 > self.max_size:
            raise ValueError("overlap must not exceed half of max_size")
        return self


class SemanticConfig(ChunkConfig):
    """Settings of the chunker `semantic`."""

    window: int = Field(default=4, ge=1, le=50)
    """Sentences on each side of a place that are compared."""
