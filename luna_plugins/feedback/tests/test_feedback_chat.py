"""Judging answers: commands, the hook, what is kept beside a judgement; what many judgements say."""

from __future__ import annotations

import math
import statistics

import pytest
from luna_plugin_feedback.analysis import analyse, since_time
from luna_plugin_feedback.entry import Entry, dimension_of
from luna_plugin_feedback.reflection import reflect, wants_reflection
from luna_plugin_feedback.store import opened

from luna_kernel.base.errors import PluginError, UsageError
from luna_kernel.base.messages import language

from .conftest import ask, entry


def kept() -> list[Entry]:
    with opened() as store:
        return store.entries()


def test_commands_keep_the_answer_with_all_that_belongs_to_it(session) -> None:
    ask(session, "primeira", "e o prazo?")
    assert session.command("/bad faltou a data") == "Kept: bad, comment."
    session.command("/rate precisa=2 útil=4")
    assert "correction" in (session.command("/correct Trinta dias.") or "")
    (found,) = kept()
    assert [message["content"] for message in found.prompt] == ["primeira", "PRIMEIRA", "e o prazo?"]
    assert (found.answer, found.model, found.generator) == ("E O PRAZO?", "m1", "luna")
    assert (found.verdict, found.text, found.correction) == ("bad", "faltou a data", "Trinta dias.")
    assert found.ratings == {"accurate": 2, "helpful": 4}
    assert found.sources[0]["source"] == "a.md"
    assert found.session_id == session.id
    session.command("/good")
    assert kept()[0].verdict == "good"
    ask(session, "outra")
    session.command("/good")
    assert len(kept()) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/rate accurate=6", "whole number from 1 to 5"),
        ("/rate accurate=", "whole number"),
        ("/rate acurate=3", "Did you mean accurate"),
        ("/rate", "Usage"),
        ("/correct", "Usage"),
        ("/correct OI", "the very answer"),
    ],
)
def test_wrong_commands_are_explained_and_keep_nothing(session, line: str, said: str) -> None:
    ask(session, "oi")
    with pytest.raises(UsageError) as raised:
        session.command(line)
    assert said in str(raised.value)
    assert kept() == []


def test_without_an_answer_there_is_nothing_to_judge(session) -> None:
    with pytest.raises(UsageError, match="no answer to judge"):
        session.command("/good")


def test_the_hook_keeps_what_a_page_sends(session, plugins) -> None:
    ask(session, "oi")
    turn = session.turns[-1]
    plugins.tell("luna_chat_feedback", session=session, turn=turn, feedback={"rating": "bad", "correction": ""})
    plugins.tell("luna_chat_feedback", session=session, turn=turn, feedback={"rating": "bad", "correction": "Olá"})
    (found,) = kept()
    assert (found.verdict, found.correction, found.answer) == ("bad", "Olá", "OI")
    with pytest.raises(PluginError, match="no dimension"):  # whoever sent it must hear that it was not kept
        plugins.tell("luna_chat_feedback", session=session, turn=turn, feedback={"charm": 3})


def test_personal_data_can_be_masked_before_it_is_kept(session, monkeypatch) -> None:
    monkeypatch.setenv("LUNA_FEEDBACK_REDACT", "1")
    ask(session, "ligue para (11) 91234-5678")
    session.command("/bad escreva para ana@exemplo.com")
    (found,) = kept()
    assert found.question == "ligue para [TELEFONE]"
    assert found.answer == "LIGUE PARA [TELEFONE]"
    assert found.text == "escreva para [E-MAIL]"
    monkeypatch.setenv("LUNA_FEEDBACK_REDACT", "maybe")
    with pytest.raises(UsageError, match="neither yes nor no"):
        session.command("/good")


def test_dimensions_have_portuguese_names() -> None:
    assert [dimension_of(name) for name in ("Útil", "precisa", "CONCISA", "detailed")] == [
        "helpful", "accurate", "concise", "detailed",
    ]  # fmt: skip
    assert language() == "en"


def test_liked_or_not() -> None:
    assert entry(verdict="good", ratings={"accurate": 1}).liked is True
    assert entry(ratings={"accurate": 2, "helpful": 1}).liked is False
    assert entry(ratings={"accurate": 3}).liked is None
    assert entry(correction="x").liked is False
    assert entry(text="hm").liked is None


# --- figures -------------------------------------------------------------------------------------------------------


def test_few_entries_give_no_conclusion() -> None:
    report = analyse([entry(ratings={"accurate": 1})] * 49)
    assert (report["status"], report["missing"], report["ratings"]["accurate"]) == ("insufficient_data", 1, 49)
    assert not {"dimensions", "weaknesses", "keywords"} & set(report)


def test_figures_weaknesses_words_and_themes() -> None:
    values = [1, 2, 2, 3, 5] * 12
    entries = [entry(ratings={"accurate": value, "helpful": 5}) for value in values]
    entries += [entry(ratings={"concise": 1}) for _ in range(9)]
    entries += [
        entry(verdict="bad", text="As datas erradas de novo"),
        entry(verdict="bad", text="Data errada!"),
        entry(verdict="good", text="Os exemplos ajudaram"),
        entry(verdict="good", text="exemplo claro"),
        entry(verdict="good", text="única"),
    ]
    report = analyse(entries)
    found = report["dimensions"]["accurate"]
    assert found["mean"] == pytest.approx(statistics.fmean(values))
    assert found["median"] == 2
    assert found["deviation"] == pytest.approx(math.sqrt(statistics.variance(values)), abs=1e-3)
    assert report["weaknesses"] == ["accurate"]  # nine ratings of `concise` are too few to call it weak
    words = {item["text"]: item for item in report["keywords"]}
    assert (words["data"] if "data" in words else words["datas"])["disliked"] == 2
    assert "única" not in words
    assert [item["comments"] for item in report["themes"]] == [2]


def test_a_window_of_time() -> None:
    assert since_time(None) == 0
    assert since_time("7d", now=700_000.0) == 700_000 - 7 * 86400
    assert since_time("30m", now=3600.0) == 1800
    assert since_time("2026-11-01") > since_time("2026-10-01")
    with pytest.raises(UsageError, match="neither a span nor a date"):
        since_time("semana passada")


def test_a_model_reflects_apart_from_people(session) -> None:
    assert not wants_reflection(entry(verdict="good"))
    judged = entry(verdict="bad", ratings={"accurate": 1}, text="errada", correction="Sim.")
    assert wants_reflection(judged)
    said = reflect(session.generator, judged)
    for piece in ("OI?", "OLÁ.", "ERRADA", "SIM.", "ACCURATE: 1/5"):
        assert piece in said
    with opened() as store:
        store.add(judged)
        store.add_reflection(judged.id, model="m", text=said)
        assert store.entries() == [judged]
        assert store.reflections()[0].text == said
