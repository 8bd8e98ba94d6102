"""What one can set about knowledge in PostgreSQL. Where the server is, and the password, never stand here: settings of
a component are saved beside what was made with them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luna_kernel.contracts.encoders import EncoderNode

NAME = r"^[a-z_][a-z0-9_]{0,39}$"


class ServerConfig(BaseModel):
    """Settings of the store `postgres`, and of all that asks the server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    database_schema: str = Field(default="luna", pattern=NAME)
    """Schema of the database in which the tables are; made if it is missing."""
    variable: str = Field(default="LUNA_PGVECTOR_DSN", pattern=r"^[A-Z_][A-Z0-9_]{0,79}$")
    """Variable of the environment that holds the connection string."""


class TextConfig(ServerConfig):
    """Settings of the retriever `pgtext`."""


class VectorConfig(ServerConfig):
    """Settings of the retriever `pgvector`."""

    encoder: EncoderNode = Field(default_factory=lambda: {"name": "lsa"})
    """The encoder as a node: its name and its own settings; a name alone may be given as text."""
    index: Literal["flat", "hnsw", "ivfflat"] = "flat"
    """How vectors are found: all compared (flat), by a graph (hnsw, pgvector 0.5 or newer), by lists (ivfflat)."""
    neighbours: int = Field(default=16, ge=2, le=100)
    """hnsw: links of a vector (`m`). More find more, and take more memory and longer to build."""
    build_effort: int = Field(default=64, ge=4, le=1000)
    """hnsw: candidates when a vector is linked (`ef_construction`), at least twice `neighbours`."""
    effort: int = Field(default=100, ge=1, le=1000)
    """hnsw: vectors looked at in a search (`ef_search`). More find more, and take longer."""
    lists: int | None = Field(default=None, ge=1, le=32_768)
    """ivfflat: how many lists; None: a thousandth of the vectors, beyond a million the root of their number."""
    probes: int | None = Field(default=None, ge=1, le=32_768)
    """ivfflat: lists looked at in a search; None: the root of how many there are. More find more, and take longer."""
    min_score: float = Field(default=0.05, ge=-1, le=1)
    """Least cosine of a hit; nearer to 0 lies only chance."""
    refit_growth: float = Field(default=0.5, ge=0)
    """Share of chunks that may be new since the encoder was fitted before all is built anew."""

    @model_validator(mode="after")
    def _order(self) -> VectorConfig:
        if self.index == "hnsw" and self.build_effort < 2 * self.neighbours:
            raise ValueError("build_effort must be at least twice neighbours")
        return self
