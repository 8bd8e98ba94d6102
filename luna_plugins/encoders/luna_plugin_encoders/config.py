"""What one can set about the encoders."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ModelConfig(BaseModel):
    """Settings of the encoder `model`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1)
    """Name or folder of the Luna model."""
    center: bool = True
    """Whether the mean vector of the documents is taken off: hidden states of small models all point one way."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens that are read at once, padding included."""


class SentenceConfig(BaseModel):
    """Settings of the encoder `sentence_transformers`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = Field(min_length=1)
    """The folder, with its `modules.json`."""
    query_prefix: str = ""
    """What stands before a question (`query: ` for models of the E5 family)."""
    passage_prefix: str = ""
    """What stands before a passage (`passage: `)."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Tokens that are read at once, padding included."""
