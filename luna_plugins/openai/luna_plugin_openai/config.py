"""What the endpoint is, and what it may be sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator


class OpenAIConfig(BaseModel):
    """The table `[plugin.openai]` of the settings. It cannot hold the key itself: a settings file gets around."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str | None = None
    """Where the endpoint is, `/v1` included; None: the environment's `OPENAI_BASE_URL`. Nobody is asked unnamed."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key."""
    api_key_file: Path | None = None
    """A file that holds the key and nothing else; it goes before the variable."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds of silence after which an answer is given up."""
    connect_timeout: float = Field(default=10.0, gt=0)
    """Seconds that a connection may take."""
    retries: int = Field(default=3, ge=0, le=10)
    """Tries again after 429 and 5xx, before the first token only."""
    context_length: int | None = Field(default=None, ge=64)
    """Tokens that prompt and answer may have together; None: what the endpoint says, else 8192."""
    grounds_itself: bool = True
    """Whether the model answers from passages in its prompt; else the passages are quoted."""
    think_tokens: int = Field(default=1024, ge=0)
    """Tokens that thinking may take beside the answer's, when it was asked for."""
    think: dict[str, Any] = Field(default_factory=dict)
    """Fields of the request when thinking is wanted, such as `{reasoning_effort = "medium"}`."""
    no_think: dict[str, Any] = Field(default_factory=dict)
    """Fields of the request when it is not."""
    sampling_fields: tuple[Literal["top_k", "min_p", "repetition_penalty"], ...] = ()
    """Which of these the endpoint knows; they are not OpenAI's own, and strict endpoints refuse them."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the endpoint calls the length of an answer."""
    body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request."""

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and (problem := wrong_address(value)):
            raise ValueError(problem)
        return value


def wrong_address(url: str) -> str:
    """Why `url` cannot be a `base_url`; empty if it can. The text never repeats a password."""
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        return "not an address"
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
        return "begins with http:// or https:// and names a host"
    if parts.username is not None or parts.password is not None:
        return "holds no user and no password: the key comes from a variable or a file"
    if parts.query or parts.fragment:
        return "ends before ? and #"
    return ""
