"""The prompt stands before the model is there: what is typed meanwhile is answered, and a failure ends it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .test_chat_verbs import Terminal

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A small model with random weights, in the home that terminals get."""
    import os

    environment = {**os.environ, "LUNA_HOME": str(tmp_path / "home"), "LUNA_LANG": "en"}
    create = [sys.executable, "-m", "luna_kernel", "create", "--name", "noise", "--preset", "mini", "--plugins", "none"]
    subprocess.run(create, check=True, env=environment, capture_output=True)
    return "noise"


def test_a_question_typed_at_once_is_answered(model: str, tmp_path: Path) -> None:
    terminal = Terminal(["chat", model, "--plugins", "none", "--max-tokens", "5"], tmp_path)
    terminal.until("›")
    assert "model noise" not in terminal.text
    terminal.type("oi\r")
    terminal.until("model noise")
    terminal.until("tokens/s")
    terminal.until("›")
    terminal.type("/stats\r")
    terminal.until("1 question ")
    terminal.until("›")
    terminal.type("\x04")
    assert terminal.status() == 0
    assert "Traceback" not in terminal.text


def test_who_waits_sees_what_was_opened_above_the_prompt(model: str, tmp_path: Path) -> None:
    terminal = Terminal(["chat", model, "--plugins", "none", "--max-tokens", "5"], tmp_path)
    terminal.until("›")
    terminal.until("model noise")
    terminal.until("›")
    terminal.type("/help\r")
    terminal.until("/stats")
    terminal.until("›")
    terminal.type("\x04")
    assert terminal.status() == 0


def test_what_hinders_the_session_ends_the_prompt(model: str, tmp_path: Path) -> None:
    weights = tmp_path / "home" / "data" / "models" / model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    terminal = Terminal(["chat", model, "--plugins", "none"], tmp_path)
    assert terminal.status() == 1
    assert "SHA-256" in terminal.text
    assert "Traceback" not in terminal.text


def test_leaving_before_it_is_open(model: str, tmp_path: Path) -> None:
    for keys in ("\x04", "\x03"):
        terminal = Terminal(["chat", model, "--plugins", "none"], tmp_path)
        terminal.until("›")
        terminal.type(keys)
        if keys == "\x03":
            terminal.until("again")
            terminal.until("›")
            terminal.type(keys)
        assert terminal.status() == 0
        assert "Traceback" not in terminal.text


def test_ctrl_c_while_the_model_is_opened_takes_the_question_back(model: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfrom luna_kernel import hookimpl\nLUNA_API = 1\n\n@hookimpl\n"
        "def luna_chat_start(session):\n    time.sleep(8)\n",
        encoding="utf-8",
    )
    terminal = Terminal(["chat", model, "--plugins", "./slow.py", "--max-tokens", "5"], tmp_path)
    terminal.until("›")
    terminal.type("oi\r")
    terminal.until("opening")
    terminal.type("\x03", at_prompt=False)
    terminal.until("interrupted")
    terminal.until("›")
    terminal.type("/stats\r")
    terminal.until("0 questions")
    terminal.until("›")
    terminal.type("\x04")
    assert terminal.status() == 0
