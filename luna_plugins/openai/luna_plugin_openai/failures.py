"""What can go wrong with an endpoint, in words for people. No text ever holds the key."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.streaming import printable

from .protocol import error_code, error_text

t = catalogue(__package__)

_TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|maximum context|exceed\w* .*(context|tokens)|too long"
    r"|tokens .*(só lê|reads only)",
    re.IGNORECASE,
)
_SHOWN = 300
"""Characters of an endpoint's own words that are repeated."""


@dataclass(frozen=True)
class Endpoint:
    """Where the model is."""

    url: str
    """Without a slash at the end."""
    model: str
    key: str | None = field(default=None, repr=False)
    key_place: str = "OPENAI_API_KEY"
    """The variable or file that the key comes from."""

    @property
    def host(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc

    def quoted(self, text: str) -> str:
        """An endpoint's own words: short, on one line, without control characters, and without the key."""
        if self.key:
            text = text.replace(self.key, "…")
        text = " ".join(printable(text).split())
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def from_exception(endpoint: Endpoint, error: Exception) -> LunaError:
    """No connection, or silence, before the answer began."""
    import httpx

    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        reason = endpoint.quoted(str(error)) or type(error).__name__
        return UsageError(t("no_connection", url=endpoint.url, reason=reason), hint=t("no_connection.hint"))
    if isinstance(error, httpx.TimeoutException):
        return LunaError(t("silent", url=endpoint.url), hint=t("silent.hint"))
    reason = endpoint.quoted(str(error)) or type(error).__name__
    return LunaError(t("failed", host=endpoint.host, status="-", reason=reason), hint=t("failed.hint"))


def from_status(endpoint: Endpoint, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> LunaError:
    """What the endpoint said with a status other than 200."""
    data = None
    with contextlib.suppress(ValueError, RecursionError):
        data = json.loads(content)
    said = error_text(data) or content[:_SHOWN].decode("utf-8", "replace")
    reason, code = endpoint.quoted(said) or "-", error_code(data)
    if status in (401, 403):
        if endpoint.key is None:
            return UsageError(t("no_key", host=endpoint.host, place=endpoint.key_place), hint=t("key.hint"))
        text = t("wrong_key", host=endpoint.host, place=endpoint.key_place, status=status, reason=reason)
        return UsageError(text, hint=t("key.hint"))
    if code == "context_length_exceeded" or status == 413 or (status in (400, 422) and _TOO_LONG.search(said)):
        return UsageError(t("too_long", model=endpoint.model, reason=reason), hint=t("too_long.hint"))
    if code == "model_not_found" or (status == 404 and data is not None and "model" in said.lower()):
        text = t("unknown_model", model=endpoint.model, host=endpoint.host, reason=reason)
        return UsageError(text, hint=t("unknown_model.hint"))
    if status == 404 or 300 <= status < 400:
        place = (headers or {}).get("location", "") if status != 404 else ""
        text = t(
            "not_there", url=f"{endpoint.url}/chat/completions", status=status, place=endpoint.quoted(place) or "-"
        )
        return UsageError(text, hint=t("not_there.hint"))
    if status == 429:
        return LunaError(t("busy", host=endpoint.host, reason=reason), hint=t("busy.hint"))
    if status >= 500:
        return LunaError(t("failed", host=endpoint.host, status=status, reason=reason), hint=t("failed.hint"))
    return UsageError(t("refused", host=endpoint.host, status=status, reason=reason), hint=t("refused.hint"))


def cut_short(endpoint: Endpoint, error: Exception | None = None) -> LunaError:
    """The answer broke off."""
    reason = (endpoint.quoted(str(error)) or type(error).__name__) if error is not None else t("cut.no_end")
    return LunaError(t("cut", host=endpoint.host, reason=reason), hint=t("cut.hint"))


def malformed(endpoint: Endpoint, what: str) -> LunaError:
    """What came is not OpenAI's protocol."""
    return LunaError(t("malformed", url=endpoint.url, what=endpoint.quoted(what)), hint=t("malformed.hint"))
