"""What one can set about search in PostgreSQL. Where the server is, and the password, never stand here: settings of a
component are saved beside what was made with them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from luna_kernel.contracts.encoders import EncoderNode

NAME = r"^[a-z_][a-z0-9_]{0,39}$"


class TextConfig(BaseModel):
    """Settings of the retriever `pgtext`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database_schema: str = Field(default="luna", pattern=NAME)
    """Schema of the database in which the tables are; made if it is missing."""


class VectorConfig(TextConfig):
    """Settings of the retriever `pgvector`."""

    encoder: EncoderNode = Field(default_factory=lambda: {"name": "lsa"})
    """The encoder as a node: its name and its own settings; a name alone may be given as text."""
    min_score: float = Field(default=0.05, ge=-1, le=1)
    """Least cosine of a hit; nearer to 0 lies only chance."""
    refit_growth: float = Field(default=0.5, ge=0)
    """Share of chunks that may be new since the encoder was fitted before all is built anew."""
