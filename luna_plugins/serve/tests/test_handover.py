"""Pieces cross to the event loop together, and nothing that is waited for is held back."""

from __future__ import annotations

import asyncio

import pytest
from luna_plugin_serve import handover
from luna_plugin_serve.handover import Handover, Inbox, Piece


def crossing(told: list[tuple[str, str | None]], *, urgent: bool = False) -> list[list[str]]:
    """The texts that arrive when a step of the engine follows each of `told`."""

    async def run() -> list[list[str]]:
        way, inbox = Handover(), Inbox()
        way.loop = asyncio.get_running_loop()
        for text, reason in told:
            way.tell(inbox, Piece(0, text, reason=reason))
            way.after_step(urgent)
        await asyncio.sleep(0)
        return [[piece.text for piece in inbox.queue.get_nowait()] for _ in range(inbox.queue.qsize())]

    return asyncio.run(run())


def test_the_first_piece_goes_at_once_and_others_wait_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "HANDOVER", 1e9)
    assert crossing([("a", None), ("b", None), ("c", None), ("", "stop")]) == [["a"], ["b", "c", ""]]


def test_they_wait_no_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "HANDOVER", 0.0)
    assert crossing([("a", None), ("b", None), ("", "stop")]) == [["a"], ["b"], [""]]


def test_what_takes_long_sends_them_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "HANDOVER", 1e9)
    assert crossing([("a", None), ("b", None)], urgent=True) == [["a"], ["b"]]


def test_pieces_of_several_requests_cross_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "HANDOVER", 1e9)

    async def run() -> None:
        way, inboxes = Handover(), [Inbox(), Inbox()]
        way.loop = asyncio.get_running_loop()
        for text in ("a", "b"):
            for inbox in inboxes:
                way.tell(inbox, Piece(0, text))
            way.after_step(False)
        way.after_step(True)
        await asyncio.sleep(0)
        for inbox in inboxes:
            assert [[piece.text for piece in inbox.queue.get_nowait()] for _ in range(2)] == [["a"], ["b"]]

    asyncio.run(run())


def test_a_closed_loop_is_no_fault() -> None:
    way = Handover()
    way.loop = asyncio.new_event_loop()
    way.loop.close()
    way.tell(Inbox(), Piece(0, "a"))
    way.after_step(True)  # raises nothing
