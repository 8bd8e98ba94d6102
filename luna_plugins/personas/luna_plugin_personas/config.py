"""What one can set about personas, and what a persona's file may hold."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PersonaStepConfig(BaseModel):
    """Settings of the chat step `persona`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: str | None = None
    """The persona of conversations that name none; None: none."""


class PersonaSampling(BaseModel):
    """How a persona draws its words, where neither the user nor the model says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 takes the likeliest word, 1 draws as the model would."""
    top_k: int | None = Field(default=None, ge=0)
    """Only the k likeliest; 0: no bound."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Only the likeliest that together have this probability."""
    min_p: float | None = Field(default=None, ge=0, lt=1)
    """Only those with this share of the likeliest one's probability."""
    repetition_penalty: float | None = Field(default=None, ge=1, le=2)
    """How much words that were said are held back; 1: not at all."""
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    """Length of an answer at most."""


class PersonaFile(BaseModel):
    """A persona as it is written down, in TOML or JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    title: str = Field(min_length=1, max_length=80)
    """How people see it."""
    description: str = Field(default="", max_length=200)
    """One line for lists."""
    system: str = Field(default="", max_length=8000)
    """What becomes part of the system message; plain text."""
    greeting: str = Field(default="", max_length=1000)
    """What Luna says when the conversation opens."""
    sampling: PersonaSampling = Field(default_factory=PersonaSampling)
    """How it draws its words."""
