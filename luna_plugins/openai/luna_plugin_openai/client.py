"""One request at a time to an endpoint, which can be stopped at any moment.

A blocking read cannot be given up from outside, so the request runs in a thread with an event loop of its own: stopping
cancels it there, which closes the connection, and an endpoint that looks sees that nobody waits any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Notice

from .config import OpenAIConfig
from .failures import Endpoint, cut_short, from_exception, from_status, malformed
from .protocol import EventReader, MalformedError, Piece, read_piece

if TYPE_CHECKING:
    import httpx

t = catalogue(__package__)

_LISTEN = 0.05
"""Seconds between two looks whether to stop."""
_LONGEST_WAIT = 30.0
_MAX_BODY = 8 << 20
_END = object()


@dataclass(frozen=True)
class Client:
    """How requests are sent.

    Args:
        endpoint: where, and with which key; its `repr` does not show the key.
        config: timeouts and retries.
    """

    endpoint: Endpoint
    config: OpenAIConfig

    def _open(self) -> httpx.AsyncClient:
        import httpx

        headers = {"Authorization": f"Bearer {self.endpoint.key}"} if self.endpoint.key else {}
        timeout = httpx.Timeout(self.config.timeout, connect=self.config.connect_timeout)
        return httpx.AsyncClient(headers=headers, timeout=timeout, follow_redirects=False)

    def models(self) -> list[dict[str, Any]] | None:
        """What `GET /models` lists; None where the endpoint does not say.

        Raises:
            LunaError: no connection, or the key is refused.
        """
        return asyncio.run(self._models())

    async def _models(self) -> list[dict[str, Any]] | None:
        import httpx

        try:
            async with self._open() as client:
                response = await client.get(f"{self.endpoint.url}/models", timeout=self.config.connect_timeout)
        except httpx.ConnectError as error:
            raise from_exception(self.endpoint, error) from error
        except httpx.HTTPError:
            return None
        if response.status_code in (401, 403):
            raise from_status(self.endpoint, response.status_code, response.content)
        try:
            listed = response.json()["data"]
            return [item for item in listed if isinstance(item, dict) and isinstance(item.get("id"), str)]
        except (ValueError, KeyError, TypeError):
            return None

    def stream(self, body: dict[str, Any], stop: Callable[[], bool]) -> Iterator[Piece | Notice]:
        """The pieces of an answer as they come; ends early, and closes the connection, when `stop()` is true.

        Raises:
            LunaError: what went wrong, in words for people.
        """
        heard: queue.Queue[Any] = queue.Queue()
        request = _Request(self, body, heard)
        try:
            while not stop():
                try:
                    item = heard.get(timeout=_LISTEN)
                except queue.Empty:
                    continue
                if item is _END:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            request.cancel()

    async def answer(self, body: dict[str, Any]) -> AsyncIterator[Piece | Notice]:
        """See `stream`."""
        import httpx

        begun = False
        try:
            async with self._open() as client:
                for attempt in range(self.config.retries + 1):
                    url = f"{self.endpoint.url}/chat/completions"
                    async with client.stream("POST", url, json=body) as response:
                        if response.status_code == 200:
                            async for piece in _pieces(self.endpoint, response):
                                begun = True
                                yield piece
                            return
                        content = await _content(response)
                        wait = _pause(response, attempt)
                    retried = response.status_code == 429 or response.status_code >= 500
                    if not retried or attempt == self.config.retries:
                        raise from_status(self.endpoint, response.status_code, content, response.headers)
                    if wait >= 2:
                        yield Notice(t("waiting", host=self.endpoint.host, status=response.status_code, seconds=wait))
                    await asyncio.sleep(wait)
        except httpx.HTTPError as error:
            raise cut_short(self.endpoint, error) if begun else from_exception(self.endpoint, error) from error


class _Request:
    """A request in its thread; `heard` gets its pieces, then `_END` or an exception."""

    def __init__(self, client: Client, body: dict[str, Any], heard: queue.Queue[Any]) -> None:
        self._client = client
        self._body = body
        self._heard = heard
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="luna-openai", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            asyncio.run(self._ask())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001  the asking thread raises it
            self._heard.put(error)
        finally:
            self._ready.set()
            self._heard.put(_END)

    async def _ask(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._ready.set()
        async with contextlib.aclosing(self._client.answer(self._body)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                self._heard.put(piece)

    def cancel(self) -> None:
        """Give it up; returns when the connection is closed."""
        self._ready.wait()
        if self._thread.is_alive() and self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(5)


async def _pieces(endpoint: Endpoint, response: httpx.Response) -> AsyncIterator[Piece]:
    """The pieces of a response with status 200.

    Raises:
        LunaError: malformed, cut short, or the endpoint failed in the middle.
    """
    reader = EventReader()
    ended = False
    try:
        if "json" in response.headers.get("content-type", ""):  # an endpoint that does not stream
            yield _checked(endpoint, read_piece(await _content(response)))
            return
        async for data in response.aiter_bytes():
            for event in reader.push(data):
                if event == b"[DONE]":
                    if not ended:
                        yield Piece(reason="end")
                    return
                piece = _checked(endpoint, read_piece(event))
                ended = ended or piece.reason is not None
                yield piece
        for event in reader.finish():
            if event != b"[DONE]":
                piece = _checked(endpoint, read_piece(event))
                ended = ended or piece.reason is not None
                yield piece
    except MalformedError as error:
        raise malformed(endpoint, str(error)) from error
    if not ended:
        raise cut_short(endpoint)


def _checked(endpoint: Endpoint, piece: Piece) -> Piece:
    if piece.error is not None:
        raise from_status(endpoint, 500, json.dumps({"error": piece.error}).encode())
    return piece


async def _content(response: httpx.Response) -> bytes:
    content = b""
    async for data in response.aiter_bytes():
        content += data
        if len(content) > _MAX_BODY:
            break  # nobody reads as much; what is cut off here is no JSON
    return content


def _pause(response: httpx.Response, attempt: int) -> float:
    """Seconds before the next try: what the endpoint says, else 0.5, 1, 2, … with a little chance."""
    try:
        wait = float(response.headers.get("retry-after", ""))
    except ValueError:
        wait = 0.5 * 2**attempt * random.uniform(1.0, 1.5)  # noqa: S311  so that many clients do not return at once
    return round(min(max(wait, 0.0), _LONGEST_WAIT), 1)
