"""A home of its own for each test, and sessions with a generator that says what it was given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.contracts.chat import Event, Generator, Text, Turn
from luna_kernel.plugins import Plugins, load_plugins


class Telling(Generator):
    """Answers with its system message and temperature."""

    name = "telling"
    grounds_itself = True

    def generate(self, turn: Turn, stop: Callable[[], bool]) -> Iterator[Event]:
        yield Text(f"{' / '.join(turn.system)} @ {turn.sampling.temperature}")
        turn.stop_reason = "end"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own personas; messages are Portuguese."""
    for name in [name for name in os.environ if name.startswith("LUNA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    folder = tmp_path / "home" / "config" / "personas"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return load_plugins("personas")


@pytest.fixture
def open_session(plugins: Plugins) -> Iterator[Callable[..., Session]]:
    opened: list[Session] = []

    def make(persona: str | None = None, *, plugins: Plugins = plugins, steps: Any = None, **options: Any) -> Session:
        session = Session(plugins, Telling(), steps=steps, options=SessionOptions(persona=persona, **options))
        opened.append(session)
        return session

    yield make
    for session in opened:
        session.close()
