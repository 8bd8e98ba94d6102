"""Who may ask for what: the name a request is meant for, keys, origins, sizes. Pure ASGI: streams stay streams."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luna_kernel.base.messages import catalogue
from luna_kernel.base.storage import size_text

from .protocol import error_body

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .measures import Measures

t = catalogue(__package__)

OPEN = ("/", "/page.css", "/page.js", "/health")
"""Paths that need no key: the page asks for it itself."""


@dataclass(frozen=True)
class Limits:
    """What the server takes."""

    hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "[::1]"})
    """Names under which it may be asked for; `*` for any. A page elsewhere whose name is made to point here (DNS
    rebinding) comes under another one."""
    key: str | None = None
    """What `Authorization: Bearer` must say; None: nothing."""
    origins: frozenset[str] = frozenset()
    """Pages of other origins that may read answers; `*` for any."""
    max_body: int = 4 << 20
    """Bytes of a request."""


class _TooLargeError(Exception):
    pass


class Guard:
    """Middleware that refuses before anything is read or done."""

    def __init__(self, app: ASGIApp, limits: Limits, measures: Measures) -> None:
        self.app = app
        self.limits = limits
        self.measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, count the bytes, and add the headers of CORS."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin", "")
        allowed = "*" if "*" in self.limits.origins else origin if origin in self.limits.origins else ""
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limits.max_body:
                raise _TooLargeError
            return message

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.measures.response(scope["path"], message["status"])
                if allowed:
                    message = {**message, "headers": [*message.get("headers", []), *_cors(allowed)]}
            await send(message)

        refusal = self._refusal(scope["method"], scope["path"], headers)
        if refusal is None and scope["method"] == "OPTIONS" and allowed:
            await _send(telling, 204, b"")
        elif refusal is not None:
            await _send(telling, *refusal)
        else:
            try:
                await self.app(scope, counted, telling)
            except _TooLargeError:
                await _send(telling, *self._too_large())

    def _refusal(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes] | None:
        """(status, body) of a request that is not taken."""
        host = headers.get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if "*" not in self.limits.hosts and name not in self.limits.hosts:
            return 421, _body(error_body(t("wrong_host", host=name[:100]), "invalid_request_error"))
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.limits.max_body:
            return self._too_large()
        if self.limits.key is not None and method != "OPTIONS" and path not in OPEN:
            key = self.limits.key.encode()
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), key):
                return 401, _body(error_body(t("wrong_key"), "authentication_error", code="invalid_api_key"))
        return None

    def _too_large(self) -> tuple[int, bytes]:
        message = t("too_large", limit=size_text(self.limits.max_body))
        return 413, _body(error_body(message, "invalid_request_error"))


def _cors(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"vary", b"origin"),
    ]


def _body(data: dict[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


async def _send(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers if body else []})
    await send({"type": "http.response.body", "body": body})
