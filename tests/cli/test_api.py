"""`from luna_kernel import Luna`, and the program in its docstring."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from luna_kernel import Luna
from luna_kernel.base.errors import UsageError

from .test_chat_verbs import ECHO


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    return tmp_path / "home"


@pytest.fixture
def echo_file(tmp_path: Path) -> Path:
    (tmp_path / "echo_plugin.py").write_text(ECHO, encoding="utf-8")
    return tmp_path / "echo_plugin.py"


@pytest.fixture
def luna(home: Path, echo_file: Path):
    with Luna(plugins=f"none,{echo_file}", generator="echo", temperature=0.2) as opened:
        yield opened


def test_ask_and_stream(luna: Luna, home: Path) -> None:
    turn = luna.ask("um dois", max_tokens=7)
    assert (turn.answer, turn.sampling.max_tokens, turn.sampling.temperature) == ("um dois ", 7, 0.2)
    assert list(luna.stream("três quatro", stop="x")) == ["três ", "quatro "]
    assert luna.turns[-1].sampling.stop == ("x",)
    assert luna.turns[-1].sampling.max_tokens != 7, "an answer's own options end with it"
    luna.clear()
    assert luna.turns == []
    assert not list(home.rglob("sessions.db")), "nothing is kept unless it is asked for"


def test_a_conversation_from_elsewhere(luna: Luna) -> None:
    luna.remember(
        [
            {"role": "system", "content": "seja breve"},
            {"role": "user", "content": "O que é aprendizado profundo?"},
            {"role": "assistant", "content": "Uma subárea."},
        ]
    )
    turn = luna.ask("e então?")
    assert [message.content for message in turn.history] == ["O que é aprendizado profundo?", "Uma subárea."]
    assert turn.system == ["seja breve"]
    with pytest.raises(UsageError):
        luna.remember([{"role": "assistant", "content": "oi"}])


def test_a_conversation_that_is_kept(home: Path, echo_file: Path) -> None:
    for query in ("um", "dois"):
        with Luna(plugins=f"none,{echo_file}", generator="echo", session="minha") as luna:
            luna.ask(query)
    assert [turn.query for turn in luna.turns] == ["um", "dois"]


@pytest.mark.parametrize("wrong", [{"temperatur": 1}, {"persona": "formal"}, {"docs": "nada"}, {"generator": "nada"}])
def test_what_is_wrong_is_said(home: Path, echo_file: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Luna(plugins=f"none,{echo_file}", **{"generator": "echo", **wrong})  # type: ignore[arg-type]


def test_bad_values_of_one_answer(luna: Luna) -> None:
    for wrong in ({"temperature": -1}, {"nada": 1}, {"persona": "formal"}):
        with pytest.raises(UsageError):
            luna.ask("um", **wrong)
    assert luna.ask("um").answer == "um "


def test_importing_the_kernel_stays_light() -> None:
    code = "import sys, luna_kernel as l; assert 'luna_kernel.cli.api' not in sys.modules; l.Luna; l.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "has no attribute 'nothing'" in done.stderr.splitlines()[-1]
