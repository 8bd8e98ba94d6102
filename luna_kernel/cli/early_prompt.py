"""The prompt before the model: a session is opened in a thread while the person types the first line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .app import App
from .chat_options import ChatRequest

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session


_DRAWING = 0.15
"""Seconds after which opening begins."""


@dataclass
class _Noting(App):
    """Notes what it would say: a thread must not write where somebody types."""

    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Note a remark."""
        self.said.append(text)


class Opening:
    """A session on its way.

    Args:
        app: of this run.
        request: what to open; see `opens_quietly`.
    """

    def __init__(self, app: App, request: ChatRequest) -> None:
        self._app = _Noting(app.selection, app.json, app.debug, _remarked=app._remarked, _plugins=app._plugins)
        self._request = request
        self._done = threading.Event()
        self._then: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._session: Session | None = None
        self.error: BaseException | None = None
        self.plugins = app.plugins()
        # It waits until the prompt is drawn: imports would hold that up.
        self._thread = threading.Timer(_DRAWING, self._open)
        self._thread.daemon = True
        self._thread.start()

    def _open(self) -> None:
        from .opening import open_for_good

        try:
            self._session = open_for_good(self._app, self._request)
        except BaseException as error:  # noqa: BLE001  raised where somebody waits for the session
            self.error = error
        with self._lock:
            self._done.set()
            then = self._then
        if then is not None:
            then()

    @property
    def done(self) -> bool:
        """Whether it is open, or has failed."""
        return self._done.is_set()

    def wait(self) -> None:
        """Wait until it is done; a signal may interrupt that."""
        self._done.wait()

    def when_done(self, then: Callable[[], None]) -> None:
        """Call `then` once, as soon as it is done, in whichever thread that is."""
        with self._lock:
            if not self._done.is_set():
                self._then = then
                return
        then()

    def take_remarks(self) -> list[str]:
        """What there is to say so far, each once."""
        said, self._app.said = self._app.said, []
        return said

    def session(self) -> Session:
        """The session; waits for it, and raises what hindered it."""
        self._thread.join()
        if self.error is not None:
            raise self.error
        assert self._session is not None
        return self._session

    def give_up(self) -> None:
        """The person has left: close what was opened."""
        self._thread.join()
        if self._session is not None:
            self._session.close()


def opens_quietly(request: ChatRequest) -> bool:
    """Whether opening asks for nothing and shows no progress: a model that is there, and no documents to read."""
    named = request.settings.model is not None and request.generator in (None, "luna")
    return named and not request.docs and request.session is None and not request.adapt
