"""Turns through steps: order, stopping, keeping, commands."""

from __future__ import annotations

import threading

import pytest

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.chat.session import MAX_QUERY_CHARS, Session, SessionOptions, clean_query
from luna_kernel.chat.store import SessionStore
from luna_kernel.contracts.chat import Notice, Passage, Sampling, Text, Thinking


def ask(session: Session, query: str) -> str:
    return "".join(event.text for event in session.ask(query) if isinstance(event, Text))


@pytest.fixture
def session(plugins, echo):
    opened = Session(plugins, echo, store=SessionStore(), options=SessionOptions(model="eco"))
    yield opened
    opened.close()


def test_a_turn_goes_through_the_default_steps_that_there_are(session):
    assert session.step_names == ["history", "generate"]
    assert ask(session, " bom dia ") == "bom dia "
    (turn,) = session.turns
    assert (turn.query, turn.answer, turn.stop_reason, turn.generator) == ("bom dia", "bom dia ", "end", "echo")
    assert set(turn.timings) == {"history", "generate", "first_token", "total"}
    assert session.store.turns(session.id) == [turn]


def test_named_steps_in_their_order_with_their_config(plugins, echo):
    session = Session(plugins, echo, steps=["notice", {"name": "history", "max_turns": 1}, "generate"])
    assert session.step_names == ["notice", "history", "generate"]
    events = list(session.ask("oi"))
    assert events[0] == Notice("um aviso")
    assert session.turns[0].notes["notice"] == {"seen": True}
    for query in ("dois", "três"):
        ask(session, query)
    assert [message.content for message in session.turns[-1].history] == ["dois", "dois "]
    session.close()


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        (["history", "nada", "generate"], UsageError),
        (["history"], UsageError),
        (["generate", "generate"], UsageError),
        ([{"max_turns": 3}, "generate"], UsageError),
        ([{"name": "history", "turns": 3}, "generate"], ConfigError),
        ([{"name": "history", "max_turns": -1}, "generate"], ConfigError),
    ],
)
def test_wrong_steps_are_refused(plugins, echo, steps, error):
    with pytest.raises(error):
        Session(plugins, echo, steps=steps)


def test_history_fits_the_budget_newest_first(plugins, echo):
    class Small(type(echo)):
        context_length = 100

        def count_tokens(self, messages):
            return sum(len(message.content) for message in messages)

    session = Session(plugins, Small(), options=SessionOptions(sampling=Sampling(max_tokens=20)))
    for query in ("a" * 20, "b" * 20, "c" * 5):
        ask(session, query)
    # Room: (100 - 20 - 5) * 0.75 = 56; the pair of b costs 41, that of a 41 more.
    assert [message.content[0] for message in session.turns[-1].history] == ["b", "b"]
    assert session.turns[-1].notes["history"] == {"turns": 1, "left_out": 1}
    session.close()


def test_stop_keeps_the_partial_answer(plugins):
    slow = plugins.registry.get("generator", "slow").load()()
    session = Session(plugins, slow, store=SessionStore())
    events = session.ask("uma palavra")
    next(events)
    threading.Thread(target=session.stop).start()
    assert len(list(events)) < 1000
    turn = session.turns[-1]
    assert turn.stop_reason == "interrupted"
    assert turn.answer.startswith("uma ")
    assert session.store.turns(session.id)[0].stop_reason == "interrupted"
    assert next(session.ask("de novo")).text == "de "
    session.close()


def test_an_abandoned_answer_is_kept_and_the_session_goes_on(session):
    events = session.ask("um dois três")
    assert next(events).text == "um "
    events.close()
    assert (session.turns[0].answer, session.turns[0].stop_reason) == ("um ", "interrupted")
    session.ask("nunca começada")
    assert ask(session, "outra") == "outra "


def test_one_question_at_a_time(session):
    events = session.ask("um dois")
    next(events)
    with pytest.raises(ValueError, match="another question"):
        session.ask("e eu?")
    list(events)


def test_a_step_that_fails_leaves_the_session_usable(plugins, echo):
    session = Session(plugins, echo, steps=["broken", "generate"], store=SessionStore())
    with pytest.raises(RuntimeError, match="quebrou"):
        list(session.ask("oi"))
    assert session.turns == []
    with pytest.raises(RuntimeError, match="quebrou"):
        list(session.ask("oi"))
    session.close()


def test_thinking_is_kept_apart_and_out_of_the_history(plugins, echo):
    session = Session(plugins, echo, options=SessionOptions(show_thinking=True))
    assert Thinking("penso") in list(session.ask("oi"))
    assert (session.turns[0].thinking, session.turns[0].answer) == ("penso", "oi ")
    ask(session, "de novo")
    assert all("penso" not in message.content for message in session.turns[1].history)
    session.close()


def test_a_store_that_refuses_is_said_and_ends_nothing(session, monkeypatch):
    from luna_kernel.base.errors import StorageError

    def refuse(*_args, **_options):
        raise StorageError("disco cheio")

    monkeypatch.setattr(session.store, "add_turn", refuse)
    events = list(session.ask("oi"))
    assert isinstance(events[-1], Notice)
    assert "disco cheio" in events[-1].text
    assert session.turns[-1].answer == "oi "


def test_hooks_are_told(plugins, echo, monkeypatch):
    told = []
    monkeypatch.setattr(plugins, "tell", lambda hook, **arguments: told.append((hook, sorted(arguments))))
    session = Session(plugins, echo)
    ask(session, "oi")
    session.close()
    assert told == [
        ("luna_chat_start", ["session"]),
        ("luna_chat_turn_end", ["session", "turn"]),
        ("luna_chat_end", ["session"]),
    ]


@pytest.mark.parametrize("query", ["", "  \n", "\0", "x" * (MAX_QUERY_CHARS + 1), "x" * (1 << 20)])
def test_bad_questions_are_refused(session, query):
    with pytest.raises(UsageError):
        session.ask(query)
    assert ask(session, "ainda aqui") == "ainda aqui "


def test_clean_query():
    assert clean_query("  cafe\u0301 ") == "café"
    assert clean_query("<|end|><|system|>oi") == "<|end|><|system|>oi"
    assert clean_query("a\ud800b") == "a?b"


# --- commands ---------------------------------------------------------------------------------------------------------


def test_save_clear_load(session):
    ask(session, "primeira")
    first = session.id
    assert "prazos" in session.command("/save prazos")
    session.command("/clear")
    assert session.turns == []
    assert session.id != first
    with pytest.raises(UsageError):
        session.command("/save vazia")
    ask(session, "segunda")
    with pytest.raises(UsageError, match="prazos"):
        session.command("/save prazos")
    assert "prazos" in session.command("/load")
    assert "primeira" in session.command("/load prazos")
    assert session.id == first
    ask(session, "terceira")
    assert [turn.query for turn in session.store.turns(first)] == ["primeira", "terceira"]
    with pytest.raises(UsageError):
        session.command("/save")
    assert session.find_command("load").complete("pra", session) == ["prazos"]


def test_help_names_every_command(session):
    text = session.command("/help")
    for component in session.plugins.registry.of_kind("command"):
        assert f"/{component.name}" in text
    assert "/save NOME" in session.command("/help save")
    assert "clear" in session.find_command("help").complete("cl", session)


def test_stats_thinking_exit(session):
    ask(session, "oi você")
    stats = session.command("/stats")
    assert "2 tokens" in stats
    assert "first_token" in stats
    assert session.command("/thinking on") != session.command("/thinking off")
    assert session.options.show_thinking is False
    with pytest.raises(UsageError):
        session.command("/thinking talvez")
    assert session.command("/exit") is None
    assert session.closing


def test_an_unknown_command_names_the_nearest(session):
    with pytest.raises(UsageError, match="stats"):
        session.command("/stat")


def test_without_a_store_commands_say_so(plugins, echo):
    session = Session(plugins, echo)
    ask(session, "oi")
    for line in ("/save a", "/load a"):
        with pytest.raises(UsageError, match="guardadas"):
            session.command(line)
    session.close()


# --- who answers ------------------------------------------------------------------------------------------------------

PASSAGE = Passage(1, "a.md", "A", "", "O prazo é de trinta dias. Boa sorte.", 0, 36, 0.9, 1)


class Finder:
    """Stands for a step that searched: changes the turn before generating."""

    def __init__(self, session: Session, passages):
        step = session.step("history")
        run = step.run

        def search(turn, owner):
            turn.searched, turn.passages = True, list(passages)
            return run(turn, owner)

        step.run = search


@pytest.mark.parametrize(
    ("query", "found", "generator", "reason"),
    [
        ("Qual é o prazo?", [PASSAGE], "extractive", "end"),
        ("Qual é o prazo?", [], "extractive", "no_answer"),
        ("Obrigada, Luna!", [PASSAGE], "tiny", "end"),
        ("Oi, tudo bem?", [], "tiny", "end"),
        ("Quem é você?", [], "tiny", "end"),
        ("Hoje é meu aniversário!", [], "tiny", "end"),
        ("Quero saber o prazo de entrega", [], "extractive", "no_answer"),
    ],
)
def test_who_answers_when_documents_are_on(plugins, echo, query, found, generator, reason):
    class Tiny(type(echo)):
        name = "tiny"
        grounds_itself = False

    session = Session(plugins, Tiny())
    Finder(session, found)
    answer = ask(session, query)
    turn = session.turns[-1]
    assert (turn.generator, turn.stop_reason) == (generator, reason)
    if generator == "extractive" and found:
        (citation,) = turn.citations
        assert answer == "O prazo é de trinta dias. [1]"
        assert PASSAGE.text[citation.start : citation.end] == citation.text
    if reason == "no_answer":
        assert answer == "Não encontrei isso nos documentos."
    session.close()


def test_a_generator_that_grounds_itself_gets_every_question(plugins, echo):
    session = Session(plugins, echo)
    Finder(session, [PASSAGE])
    ask(session, "Qual é o prazo?")
    assert session.turns[-1].generator == "echo"
    session.close()
