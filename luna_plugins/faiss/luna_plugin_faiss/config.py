"""What one can set about dense search."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from luna_kernel.contracts.encoders import EncoderNode


class FaissConfig(BaseModel):
    """Settings of the dense retriever."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: EncoderNode = Field(default_factory=lambda: {"name": "lsa"})
    """The encoder as a node: its name and its own settings; a name alone may be given as text."""
    index: Literal["flat", "hnsw", "ivf", "pq"] = "flat"
    """How vectors are kept: all compared (flat), a graph (hnsw), lists of neighbours (ivf), short codes (pq)."""
    metric: Literal["cosine", "ip", "l2"] = "cosine"
    """What is near: direction (cosine), inner product (ip), or distance (l2; its scores are negative squares)."""
    min_score: float | None = Field(default=None)
    """Least score of a hit; None: 0.05 for cosine, for nearer to 0 lies only chance, and no limit for the others."""
    neighbours: int = Field(default=32, ge=4, le=128)
    """hnsw: links of a vector. More find more, and take more memory."""
    effort: int = Field(default=64, ge=1, le=100_000)
    """hnsw: vectors looked at in a search; ivf: hundredths of the lists. More find more, and take longer."""
    lists: int | None = Field(default=None, ge=1)
    """ivf: how many lists; None: four times the root of the number of vectors."""
    code_bytes: int = Field(default=32, ge=1, le=256)
    """pq: bytes of a vector's code, or the next smaller number that divides its length."""
    refit_growth: float = Field(default=0.5, ge=0)
    """Share of chunks that may be new since the encoder was fitted before all is built anew."""


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
