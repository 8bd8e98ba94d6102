"""From the engine's thread to the event loop: pieces of all answers together, some thirty times a second.

To wake the loop costs more than a token of a small model does, and while the loop works the engine cannot. So pieces
wait for `HANDOVER` seconds; the first piece of an answer and its end wait for nothing, and take along what is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

HANDOVER = 0.03


@dataclass
class Piece:
    """Something that happened to answer `index`."""

    index: int
    text: str = ""
    thought: bool = False
    """Whether the text is of the thought before the answer."""
    reason: str | None = None
    """Why the answer ended, on its last piece."""


class Inbox:
    """What has arrived for one request; the event loop alone reads it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[list[Piece]] = asyncio.Queue()
        self.begun: set[int] = set()
        """Answers whose first piece was told."""


class Handover:
    """The way of all pieces. `tell` and `after_step` are called by the engine's thread alone."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._held: list[tuple[Inbox, Piece]] = []
        self._urgent = False
        self._last = 0.0

    def tell(self, inbox: Inbox, piece: Piece) -> None:
        """Take a piece along the next time."""
        self._held.append((inbox, piece))
        if piece.reason is not None or piece.index not in inbox.begun:
            inbox.begun.add(piece.index)
            self._urgent = True

    def after_step(self, urgent: bool) -> None:
        """Hand over what is held, if it is `urgent` or time to."""
        if not self._held:
            return
        now = time.monotonic()
        if not (urgent or self._urgent) and now - self._last < HANDOVER:
            return
        held, self._held, self._last, self._urgent = self._held, [], now, False
        with contextlib.suppress(RuntimeError):  # the server is closing, and nobody listens
            assert self.loop is not None
            self.loop.call_soon_threadsafe(_deliver, held)


def _deliver(held: list[tuple[Inbox, Piece]]) -> None:
    together: dict[Inbox, list[Piece]] = {}
    for inbox, piece in held:
        together.setdefault(inbox, []).append(piece)
    for inbox, pieces in together.items():
        inbox.queue.put_nowait(pieces)
