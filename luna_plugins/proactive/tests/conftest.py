"""Sessions with the step and a generator that answers the same to everything; messages are Portuguese."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.contracts.chat import Event, Generator, Notice, Text, Turn
from luna_kernel.plugins import load_plugins


class Same(Generator):
    """Always the same answer."""

    name = "same"
    grounds_itself = True

    def generate(self, turn: Turn, stop: Callable[[], bool]) -> Iterator[Event]:
        yield Text("Pois é.")
        turn.stop_reason = "end"


def notices(session: Session, *queries: str) -> list[str]:
    """What was suggested after each question; empty where nothing was."""
    return ["".join(e.text for e in session.ask(query) if isinstance(e, Notice)) for query in queries]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LUNA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")


@pytest.fixture
def open_session() -> Iterator[Callable[..., Session]]:
    """`open_session(plugins="proactive", docs=(…), limit=1)`: fields of the step's configuration by name."""
    opened: list[Session] = []

    def make(plugins: str = "proactive", docs: tuple[Path, ...] = (), **config: Any) -> Session:
        steps = ["history", *(["rag"] if docs else []), "generate", {"name": "proactive", **config}]
        options = SessionOptions(docs=docs)
        opened.append(Session(load_plugins(plugins), Same(), steps=steps, options=options))
        return opened[-1]

    yield make
    for session in opened:
        session.close()
