"""Over a real server: the suite of generators, and whole conversations with other plugins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luna_kernel.base.errors import UsageError
from luna_kernel.chat.prompt import fit_messages
from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.chat.store import SessionStore
from luna_kernel.contracts.chat import Generator, Sampling, Text, Turn
from luna_kernel.plugins import load_plugins
from luna_kernel.testing import GeneratorConformance

from .conftest import luna

NOISE = {"temperature": 1.0, "seed": 1, "max_tokens": 48}
"""An untrained model draws nonsense, the same for the same seed."""


_seeds: dict[str, int] = {}


def seed_of_a_long_answer(generator: Generator, query: str) -> int:
    """A seed with which the answer is long enough that the server hands it over piece by piece."""
    for seed in range(1, 100):
        turn = Turn(query, sampling=Sampling(temperature=1.0, seed=seed, max_tokens=300))
        list(generator.generate(turn, lambda: False))
        if turn.usage["completion_tokens"] >= 180:
            return seed
    raise AssertionError("no long answer")


class TestOpenAI(GeneratorConformance):
    @pytest.fixture
    def generator(self, served: str, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Generator:
        made: Generator = make(served)
        if served not in _seeds:
            _seeds[served] = seed_of_a_long_answer(made, self.query)
        monkeypatch.setattr(type(self), "sampling", {**NOISE, "seed": _seeds[served], "max_tokens": 300})
        return made

    def prompt_controls(self, generator: Generator, turn: Turn) -> list[str]:
        # What is sent is messages; the server's own tests hold its template to the law.
        return [message.role for message in fit_messages(generator, turn)[0]]


def test_the_context_length_is_the_servers(served, make):
    assert make(served).context_length < 8192
    assert make(served, context_length=100).context_length == 100


def test_usage_is_the_servers(served, make):
    turn = Turn("Quem é você?", sampling=Sampling(**NOISE))
    list(make(served).generate(turn, lambda: False))
    assert turn.usage["prompt_tokens"] > 0
    assert 0 < turn.usage["completion_tokens"] <= 48
    assert "usage" not in turn.notes


def test_an_unknown_model_is_named(served, make):
    with pytest.raises(UsageError, match="“tucano”"):
        list(make(served, model="tucano").generate(Turn("Oi"), lambda: False))


def test_a_prompt_too_long_for_the_server_is_explained(served, make):
    generator = make(served, context_length=100_000)
    with pytest.raises(UsageError, match="longa demais") as caught:
        list(generator.generate(Turn("palavra " * 2000), lambda: False))
    assert "context_length" in caught.value.hint


def test_a_conversation_with_documents_persona_and_suggestions(served, make, tmp_path):
    for name in ("rag", "personas", "proactive"):
        pytest.importorskip(f"luna_plugin_{name}")
    documents = tmp_path / "docs"
    documents.mkdir()
    (documents / "trocas.md").write_text("# Trocas\n\nO prazo de devolução é de trinta dias.\n", encoding="utf-8")
    store = SessionStore()
    options = SessionOptions(sampling=Sampling(**NOISE), docs=(documents,), persona="formal", model="luna")
    generator = make(served)
    session = Session(load_plugins("rag,personas,proactive"), generator, store=store, options=options)
    for _ in session.ask("Qual é o prazo de devolução?"):
        pass
    (turn,) = session.turns
    assert turn.generator == "openai"
    assert "proactive" in session.step_names
    assert turn.passages
    assert "trinta dias" in fit_messages(generator, turn)[0][-1].content
    assert turn.system
    assert turn.answer
    for _ in session.ask("E depois?"):
        pass
    assert [message.role for message in session.turns[1].history] == ["user", "assistant"]
    name = session.id
    session.close()
    again = Session(load_plugins("none"), generator, store=SessionStore())
    assert again.load(name) == 2
    assert again.turns[0].answer == turn.answer
    again.close()


def test_the_verb(served, tmp_path: Path):
    options = ["run", "--plugins", "openai", "--generator", "openai", "--model", "luna", "--seed", "1", "--json"]
    done = luna(tmp_path, *options, "--query", "Oi", "--max-tokens", "8", OPENAI_BASE_URL=served)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["generator"] == "openai"
    assert answer["answer"]
    assert served in done.stderr
    assert "not encrypted" not in done.stderr


def test_a_session_goes_on_over_another_generator(served, make):
    generator = make(served)
    session = Session(load_plugins("none"), generator, options=SessionOptions(sampling=Sampling(**NOISE)))
    first = "".join(event.text for event in session.ask("Oi") if isinstance(event, Text))
    session.generator = session.plugins.registry.get("generator", "extractive").load()()
    for _ in session.ask("E agora?"):
        pass
    assert session.turns[0].answer == first
    assert session.turns[1].generator == "extractive"
    session.close()
