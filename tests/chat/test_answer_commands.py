"""`/regenerate /edit /undo /system /set /temp /tokens /multi`."""

from __future__ import annotations

import io

import pytest

from luna_kernel.base.errors import UsageError
from luna_kernel.chat.conversation import answer_lines, take_line
from luna_kernel.chat.printing import PlainPrinter
from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.chat.store import SessionStore
from luna_kernel.contracts.chat import Sampling


@pytest.fixture
def session(plugins, echo):
    opened = Session(plugins, echo, store=SessionStore())
    yield opened
    opened.close()


@pytest.fixture
def talk(session):
    """What a line, or several, makes the session say."""

    def run(*lines: str) -> str:
        out = io.StringIO()
        for line in lines:
            take_line(session, line, PlainPrinter(out))
        return out.getvalue()

    return run


def queries(session: Session) -> list[str]:
    kept = [turn.query for turn in session.store.turns(session.id)]
    assert [turn.query for turn in session.turns] == kept
    return kept


def test_regenerate_replaces_the_answer(session, talk):
    session.options.sampling = Sampling(seed=7)
    talk("um", "dois")
    former = session.turns[-1]
    assert talk("/regenerate") == "dois \n"
    assert queries(session) == ["um", "dois"]
    assert session.turns[-1] is not former
    assert session.turns[-1].notes["replaces"] == {"query": "dois", "answer": "dois "}
    assert [message.content for message in session.turns[-1].history] == ["um", "um "], "the former is no history"
    assert session.turns[-1].sampling.seed == 8, "another answer, and that one may be had again"
    talk("/regenerate")
    assert session.turns[-1].sampling.seed == 9


def test_edit_asks_in_other_words(session, talk):
    talk("um", "dois")
    assert talk("/edit três") == "três \n"
    assert queries(session) == ["um", "três"]
    talk("/edit")
    assert session.draft == "/edit três"


def test_undo(session, talk):
    talk("um", "dois", "/undo")
    assert queries(session) == ["um"]
    talk("/undo")
    assert queries(session) == []
    assert session.store.sessions() == [], "a conversation that nobody named goes with its last turn"
    for line in ("/undo", "/regenerate", "/edit", "/edit x"):
        with pytest.raises(UsageError):
            talk(line)
    assert talk("três") == "três \n"


def test_what_cannot_be_answered_loses_nothing(session, talk):
    talk("um")
    with pytest.raises(UsageError):
        talk("/edit " + "x" * 30_000)
    assert queries(session) == ["um"]
    talk("dois")
    assert queries(session) == ["um", "dois"], "what was refused does not take the next turn's place"


def test_a_regeneration_that_fails_keeps_the_former(session, talk, monkeypatch):
    talk("um")

    def fail(*_):
        raise UsageError("não")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(session.generator, "generate", fail)
        with pytest.raises(UsageError):
            talk("/regenerate")
    assert queries(session) == ["um"]


def test_system(session, talk):
    assert "off" not in session.command("/system")
    assert "seja breve" in session.command("/system seja breve")
    talk("um")
    assert session.turns[-1].system == ["seja breve"]
    session.command("/system off")
    talk("dois")
    assert session.turns[-1].system == []


def test_set_temp_tokens(session, talk):
    session.command("/temp 0,25")
    session.command("/tokens 9")
    assert session.options.sampling == Sampling(temperature=0.25, max_tokens=9)
    session.command("/set top_k 5")
    session.command("/set seed 3")
    talk("um")
    assert session.turns[-1].sampling == Sampling(temperature=0.25, max_tokens=9, top_k=5, seed=3)
    session.command("/set top_k default")
    assert session.options.sampling.top_k == 0
    assert "0.25" in session.command("/temp")
    assert {"temperature", "top_p"} <= set(session.command("/set").split())
    assert session.find_command("set").complete("top", session) == ["top_k", "top_p"]


@pytest.mark.parametrize(
    "line", ["/temp frio", "/temp -1", "/tokens 0", "/tokens 1.5", "/set nada 1", "/set nada", "/set top_p 2"]
)
def test_bad_values_change_nothing(session, line):
    with pytest.raises(UsageError):
        session.command(line)
    assert session.options.sampling == Sampling()


def test_multi(session, talk):
    assert talk("/multi", "  um", "", "/stats", "dois  ", "/end") == "um /stats dois \n"
    assert session.turns[-1].query == "um\n\n/stats\ndois"


def test_multi_through_a_pipe(plugins, echo):
    session = Session(plugins, echo, options=SessionOptions())
    out = io.StringIO()
    assert answer_lines(session, [b"/multi um\n", b"\n", b"dois\n", b"/end\n", b"\n", b"fim\n"], PlainPrinter(out)) == 0
    assert [turn.query for turn in session.turns] == ["um\n\ndois", "fim"]
    session.close()


def test_regenerate_says_when_it_cannot_differ(session, talk):
    talk("um")
    session.command("/temp 0")
    assert "/temp" in session.command("/regenerate")
