"""When the step speaks, what it says, and when it is silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from luna_kernel.base.errors import UsageError
from luna_kernel.chat.session import Session
from luna_kernel.chat.store import SessionStore
from luna_kernel.plugins import load_plugins

from .conftest import Same, notices

Open = Callable[..., Session]

WAVERS = "Estou em dúvida entre o chá e o café."
STUCK = "Não consigo abrir o arquivo."
ASKS = "O que é fotossíntese?"


def test_it_compares_the_two_things_named(open_session: Open) -> None:
    session = open_session()
    [text] = notices(session, WAVERS)
    assert "comparar chá com café" in text
    assert session.turns[0].notes["proactive"]["kind"] == "indecision"
    assert session.turns[0].answer == "Pois é."


def test_it_names_the_thing_asked_about(open_session: Open) -> None:
    assert "um exemplo de fotossíntese" in notices(open_session(), ASKS)[0]


def test_it_pauses_and_says_nothing_twice(open_session: Open) -> None:
    said = notices(open_session(limit=9), WAVERS, STUCK, WAVERS, STUCK, "Quero um chá.", STUCK)
    assert [bool(text) for text in said] == [True, False, False, True, False, False]


def test_it_stops_at_the_limit(open_session: Open) -> None:
    said = notices(open_session(limit=2, pause=0), WAVERS, STUCK, ASKS)
    assert [bool(text) for text in said] == [True, True, False]


def test_a_refusal_silences_it(open_session: Open) -> None:
    assert [bool(text) for text in notices(open_session(pause=0), WAVERS, "Não, obrigado.", STUCK, ASKS)] == [
        True, False, False, False,
    ]  # fmt: skip


def test_silence_can_end(open_session: Open) -> None:
    said = notices(open_session(pause=0, silence=2), WAVERS, "Não, obrigado.", STUCK, STUCK, ASKS)
    assert [bool(text) for text in said] == [True, False, False, False, True]


def test_switching_it_on_again_ends_the_silence(open_session: Open) -> None:
    session = open_session(pause=0)
    assert [bool(text) for text in notices(session, WAVERS, "Não, obrigado.", STUCK)] == [True, False, False]
    session.command("/proactive on")
    assert notices(session, STUCK)[0]


def test_a_no_that_answers_no_suggestion_silences_nothing(open_session: Open) -> None:
    assert [bool(text) for text in notices(open_session(), "Não, obrigado.", WAVERS)] == [False, True]


def test_it_goes_on_counting_in_a_conversation_that_is_resumed(tmp_path: Path, open_session: Open) -> None:
    steps = ["history", "generate", {"name": "proactive", "pause": 0}]
    plugins = load_plugins("proactive")
    first = Session(plugins, Same(), steps=steps, store=SessionStore(tmp_path / "s.db"))
    assert notices(first, WAVERS, "Não, obrigado.")[0]
    first.save("conversa")
    first.close()
    second = Session(plugins, Same(), steps=steps, store=SessionStore(tmp_path / "s.db"))
    second.load("conversa")
    assert notices(second, STUCK) == [""]
    second.close()


def test_kinds_and_threshold_are_kept(open_session: Open) -> None:
    assert notices(open_session(kinds=["help"]), WAVERS) == [""]
    assert notices(open_session(threshold=0.999), STUCK) == [""]


def test_the_command(open_session: Open) -> None:
    session = open_session(pause=0)
    assert "no máximo 3" in (session.command("/proactive") or "")
    assert "desligadas" in (session.command("/proactive off") or "")
    assert notices(session, WAVERS) == [""]
    session.command("/proactive on")
    assert notices(session, WAVERS)[0]
    with pytest.raises(UsageError, match="talvez"):
        session.command("/proactive talvez")


def test_contradiction_quotes_both(open_session: Open) -> None:
    said = notices(open_session(), "O prazo termina em 10 dias.", "O prazo termina em 15 dias.")
    assert "10 dias" in said[1]
    assert "15 dias" in said[1]


class TestWithDocuments:
    """The step names what the knowledge base has, through the session's search."""

    @pytest.fixture
    def docs(self, tmp_path: Path) -> tuple[Path, ...]:
        pytest.importorskip("luna_plugin_rag")
        folder = tmp_path / "docs"
        folder.mkdir()
        (folder / "regras.md").write_text(
            "# Regras da vila\n\n## Multas\n\nA multa por atraso na devolução é de dois reais por dia.\n\n"
            "## Animais\n\nAnimais pequenos entram na praça com coleira.\n",
            encoding="utf-8",
        )
        return (folder,)

    def test_it_names_document_and_line(self, open_session: Open, docs: tuple[Path, ...]) -> None:
        session = open_session("rag,proactive", docs)
        [text] = notices(session, "Onde encontro o valor da multa por atraso na devolução?")
        assert "Encontrei no documento Regras da vila, linha" in text
        assert "dois reais por dia" in text
        assert session.turns[0].notes["proactive"]["source"] == "regras.md"

    def test_it_does_not_send_people_to_documents_that_are_open(
        self, open_session: Open, docs: tuple[Path, ...]
    ) -> None:
        assert notices(open_session("rag,proactive", docs), "Onde encontro receitas de bolo de fubá?") == [""]

    def test_documents_switched_off_are_not_searched(self, open_session: Open, docs: tuple[Path, ...]) -> None:
        session = open_session("rag,proactive", docs)
        session.options.rag = False
        assert "Encontrei" not in notices(session, "Onde encontro o valor da multa por atraso na devolução?")[0]
