"""What one can set about BM25."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class BM25Config(BaseModel):
    """Settings of the BM25 retriever."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: Literal["luna", "bm25s", "rank_bm25"] = "luna"
    """Which library searches; Luna's own takes changes at once, the others are made anew after each."""
    k1: float = Field(default=1.2, ge=0, le=10)
    """How soon repetitions of a word stop counting; 0: only whether it occurs."""
    b: float = Field(default=0.75, ge=0, le=1)
    """How much long chunks are held back; 0: not at all."""
    stemming: bool = True
    """Whether the forms of a word count as one (`casas` finds `casa`)."""
    stop_words: bool = True
    """Whether words that say nothing (`de`, `para`, `qual`) are left out."""
    extra_stop_words: tuple[str, ...] = ()
    """Further words to leave out, for a field in which they are everywhere."""
