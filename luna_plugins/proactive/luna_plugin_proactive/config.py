"""What one can set about suggestions."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["contradiction", "searching", "help", "indecision", "practical", "extension", "clarification", "related"]


class ProactiveConfig(BaseModel):
    """Settings of the chat step `proactive`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = True
    """Whether a conversation begins with suggestions on; `/proactive` changes it."""
    threshold: float = Field(default=0.6, ge=0, le=1)
    """Least confidence that a message gives occasion to a suggestion."""
    limit: int = Field(default=3, ge=0)
    """Suggestions in one conversation at most."""
    pause: int = Field(default=1, ge=0)
    """Turns without a suggestion after one."""
    silence: int | None = Field(default=None, ge=1)
    """Turns of silence after a suggestion was turned down; None: the rest of the conversation."""
    relevance: float = Field(default=0.3, ge=0, le=1)
    """Least relevance of a passage of the documents that a suggestion names."""
    kinds: tuple[Kind, ...] = (
        "contradiction", "searching", "help", "indecision", "practical", "extension", "clarification", "related",
    )  # fmt: skip
    """The kinds of suggestions that are made."""
