"""A home of its own for each test, a generator that needs no model, and a tiny real model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ECHO = '''"""A plugin in a file: a generator that repeats the question, and steps that go wrong."""

import time

from luna_kernel import hookimpl
from luna_kernel.contracts.chat import Generator, Notice, Step, Text, Thinking

LUNA_API = 1
PAUSE = 0.0


@hookimpl
def luna_add_chat(add):
    add("generator", "echo", f"{__name__}:Echo")
    add("generator", "slow", f"{__name__}:Slow")
    add("step", "notice", f"{__name__}:NoticeStep")
    add("step", "broken", f"{__name__}:BrokenStep")


class Echo(Generator):
    name = "echo"
    grounds_itself = True
    pause = 0.0
    words = 1

    def generate(self, turn, stop):
        if turn.think:
            yield Thinking("penso")
        turn.usage = {"prompt_tokens": 1, "completion_tokens": 0}
        for word in turn.query.split() * self.words:
            if stop():
                turn.stop_reason = "interrupted"
                return
            turn.usage["completion_tokens"] += 1
            yield Text(word + " ")
            time.sleep(self.pause)
        turn.stop_reason = "end"


class Slow(Echo):
    name = "slow"
    pause = 0.02
    words = 2000


class NoticeStep(Step):
    def run(self, turn, session):
        turn.notes["notice"] = {"seen": True}
        yield Notice("um aviso")


class BrokenStep(Step):
    def run(self, turn, session):
        raise RuntimeError("quebrou")
        yield
'''


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that Luna keeps goes below this folder; messages are Portuguese."""
    for name in [name for name in os.environ if name.startswith("LUNA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    return tmp_path / "home"


@pytest.fixture
def echo_file(tmp_path: Path) -> Path:
    path = tmp_path / "echo_plugin.py"
    path.write_text(ECHO, encoding="utf-8")
    return path


@pytest.fixture
def plugins(home: Path, echo_file: Path):
    from luna_kernel.plugins import load_plugins

    return load_plugins(f"none,{echo_file}")


@pytest.fixture
def echo(plugins):
    return plugins.registry.get("generator", "echo").load()()
