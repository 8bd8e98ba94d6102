"""Style sliders, and the persona that follows each message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_personas.automatic import choose
from luna_plugin_personas.style import DIMENSIONS, WORDS, instruction, sampling

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.chat.session import Session
from luna_kernel.contracts.chat import Sampling

Open = Callable[..., Session]
ROWS = [json.loads(line) for line in (Path(__file__).parent / "mensagens.jsonl").read_text("utf-8").splitlines()]


def ask(session: Session, query: str = "oi") -> Any:
    for _ in session.ask(query):
        pass
    return session.turns[-1]


@pytest.mark.parametrize("name", DIMENSIONS)
def test_each_slider_changes_the_prompt(open_session: Open, name: str) -> None:
    session = open_session()
    for value, said in ((0.1, WORDS[name][0]), (0.5, None), (0.9, WORDS[name][1])):
        session.command(f"/style {name}={value}")
        assert ask(session).system == ([said] if said else [])


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_more_creativity_is_a_higher_temperature_and_more_verbosity_a_longer_answer(a: float, b: float) -> None:
    low, high = sorted((a, b))
    for slider, field in (("creativity", "temperature"), ("verbosity", "max_tokens")):
        default = getattr(Sampling(), field)
        less, more = (sampling({slider: value}).get(field, default) for value in (low, high))
        if 0.5 not in (low, high):
            assert less <= more


def test_nothing_asked_for_changes_nothing() -> None:
    assert instruction(dict.fromkeys(DIMENSIONS, 0.5)) == ""
    assert sampling(dict.fromkeys(DIMENSIONS, 0.5)) == {}


def test_a_file_has_sliders_and_the_command_goes_before_them(open_session: Open, tmp_path: Path) -> None:
    path = tmp_path / "ana.toml"
    path.write_text('system = "x"\n[style]\ncreativity = 0.9\nverbosity = 0\n', encoding="utf-8")
    session = open_session(str(path))
    turn = ask(session)
    assert turn.system == ["x", "Seja breve. Seja criativo."]
    assert (turn.sampling.temperature, turn.sampling.max_tokens) == (1.0, 64)
    assert turn.notes["persona"]["style"] == {"creativity": 0.9, "verbosity": 0.0}
    session.command("/style creativity=0")
    turn = ask(session)
    assert turn.system == ["x", "Seja breve. Atenha-se aos fatos."]
    assert turn.sampling.temperature == 0.1
    session.command("/style off")
    assert ask(session).sampling.temperature == 1.0
    session.options.sampling = Sampling(temperature=0.33)
    assert ask(session).sampling.temperature == 0.33, "what the user set stays"


@pytest.mark.parametrize("line", ["/style x=1", "/style formality=2", "/style formality", "/style formality=0.8 y=1"])
def test_bad_sliders_change_nothing(open_session: Open, line: str) -> None:
    session = open_session()
    with pytest.raises(UsageError, match=line.split()[-1].split("=")[0]):
        session.command(line)
    assert ask(session).system == []


def test_a_bad_slider_in_a_file_is_named(open_session: Open, tmp_path: Path) -> None:
    path = tmp_path / "ana.toml"
    path.write_text('system = "x"\n[style]\nformalidade = 0.9\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"style\.formality"):
        open_session(str(path))


def test_the_persona_follows_the_message_and_says_why(open_session: Open) -> None:
    session = open_session("auto")
    turn = ask(session, "Como instalo o Docker no Linux?")
    assert turn.notes["persona"]["name"] == "tecnico"
    assert "Docker" in turn.notes["persona"]["reason"]
    assert "Docker" in session.command("/stats")
    assert ask(session, "Prezados, solicito a segunda via do contrato.").notes["persona"]["name"] == "formal"
    assert "/stats" in session.command("/persona auto")
    session.command("/persona casual")
    assert ask(session, "Prezados, solicito a segunda via.").notes["persona"]["name"] == "casual"
    assert "auto" in session.find_command("persona").complete("au", session)


def test_who_spoke_before_stays_where_the_message_does_not_decide() -> None:
    query = "Qual a diferença no desempenho?"
    assert choose(query).persona == "tecnico"
    assert choose("Como assim?", "friendly").persona == "balanced", "staying is no sign of its own"
    assert choose("A empresa pede um relatório do erro no sistema", "tecnico").scores["tecnico"] == 1.5


def test_accuracy_on_labelled_messages() -> None:
    """`benchmarks/personas.py` prints the figures; here no more than that they do not fall."""
    assert len(ROWS) >= 150
    for half in ("tuning", "held out"):
        mine = [row for row in ROWS if row["half"] == half]
        assert sum(choose(row["message"]).persona == row["persona"] for row in mine) / len(mine) >= 0.9
