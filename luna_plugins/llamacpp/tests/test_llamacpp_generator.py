"""A real GGUF file through the real llama.cpp; skipped where it is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from luna_plugin_llamacpp.generator import LlamaCppGenerator
from luna_plugin_llamacpp.model import check_file

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.chat.prompt import fit_messages
from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.contracts.chat import Generator, Sampling, Text, Thinking, Turn
from luna_kernel.contracts.data import Message
from luna_kernel.plugins import load_plugins
from luna_kernel.testing import GeneratorConformance

from .conftest import CONTROLS, MARKUP, write_gguf

DRAWN = {"temperature": 1.0, "min_p": 0.0, "seed": 3, "max_tokens": 24, "repetition_penalty": 1.0}
"""Taken greedily, a random model repeats itself."""


class TestLlamaCpp(GeneratorConformance):
    controls = (*CONTROLS, *MARKUP)
    sampling = DRAWN

    @pytest.fixture
    def generator(self, tiny: Path, make: Any) -> Generator:
        return make(tiny)

    def prompt_controls(self, generator: Generator, turn: Turn) -> list[int]:
        assert isinstance(generator, LlamaCppGenerator)
        special = set(generator.model.controls.values())
        marks = {generator.model.llama.tokenize(mark.encode(), add_bos=False)[0] for mark in MARKUP}
        return [id_ for id_ in generator._prompt(turn).ids if id_ in special | marks]


def answer(generator, turn, stop=lambda: False):
    return "".join(event.text for event in generator.generate(turn, stop) if isinstance(event, Text))


def test_ordinary_text_gets_llama_cpps_own_tokens(tiny, make):
    generator = make(tiny)
    messages = [Message("system", "Seja breve."), Message("user", "Olá! Não é à toa: café, pão\ne coração 🌙.")]
    rendered = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"
    own = generator.model.llama.tokenize(rendered.encode(), add_bos=False, special=True)
    assert generator.template.render(messages).ids == own


def test_what_was_read_is_kept_between_turns(tiny, make):
    generator = make(tiny)
    first = Turn("Olá!", sampling=Sampling(**DRAWN))
    said = answer(generator, first)
    assert first.usage["cached_tokens"] == 0
    history = [Message("user", "Olá!"), Message("assistant", said)]
    second = Turn("E o café?", history=history, sampling=Sampling(**DRAWN))
    kept = answer(generator, second)
    assert second.usage["cached_tokens"] >= first.usage["prompt_tokens"] - 1
    third = Turn("E o café?", history=history, sampling=Sampling(**DRAWN))
    assert answer(make(tiny), third) == kept
    assert third.usage["cached_tokens"] == 0


def test_seeds(tiny, make):
    generator = make(tiny)

    def say(seed):
        return answer(generator, Turn("Oi", sampling=Sampling(**{**DRAWN, "seed": seed})))

    assert say(5) == say(5)
    assert len({say(seed) for seed in range(4)}) == 4
    assert len({say(None) for _ in range(4)}) > 1


def test_sampling_fields_change_what_is_drawn(tiny, make):
    generator = make(tiny)
    greedy = answer(generator, Turn("Oi", sampling=Sampling(**{**DRAWN, "temperature": 0.0})))
    for field, value in (("top_k", 1), ("top_p", 1e-6), ("min_p", 1.0)):
        assert answer(generator, Turn("Oi", sampling=Sampling(**{**DRAWN, field: value}))) == greedy
    penalised = Sampling(**{**DRAWN, "temperature": 0.0, "repetition_penalty": 5.0})
    assert answer(generator, Turn("Oi", sampling=penalised)) != greedy


def test_thinking(tiny, make):
    generator = make(tiny, think_tokens=5)
    turn = Turn("Oi", think=True, sampling=Sampling(**DRAWN))
    events = list(generator.generate(turn, lambda: False))
    assert events
    assert all(isinstance(event, Thinking) for event in events)
    assert turn.stop_reason == "length"
    assert turn.usage["completion_tokens"] == 5


def test_the_answer_ends_with_the_context(tiny, make):
    generator = make(tiny, context_length=64)
    assert generator.context_length == 64
    for seed in range(5):
        turn = Turn("Oi", sampling=Sampling(**{**DRAWN, "max_tokens": 1000, "seed": seed}))
        answer(generator, turn)
        assert turn.usage["prompt_tokens"] + turn.usage["completion_tokens"] <= 64
        if turn.stop_reason == "length":
            break
    else:
        pytest.fail("it ended by itself five times")


def test_the_context_length_is_the_files(tiny, make):
    assert make(tiny).context_length == 1024


def test_a_conversation_with_documents(tiny, make, tmp_path):
    pytest.importorskip("luna_plugin_rag")
    documents = tmp_path / "docs"
    documents.mkdir()
    (documents / "trocas.md").write_text("# Trocas\n\nO prazo é de trinta <|im_end|> dias.\n", encoding="utf-8")
    generator = make(tiny)
    options = SessionOptions(sampling=Sampling(**DRAWN), docs=(documents,))
    session = Session(load_plugins("rag"), generator, options=options)
    for _ in session.ask("Qual é o prazo?"):
        pass
    (turn,) = session.turns
    assert turn.generator == "llamacpp"
    assert "trinta <|im_end|> dias" in fit_messages(generator, turn)[0][-1].content
    assert turn.answer
    session.close()


def test_the_verb(tiny, tmp_path):
    command = [sys.executable, "-m", "luna_kernel", "run", "--plugins", "llamacpp", "--generator", "llamacpp"]
    done = subprocess.run(
        [*command, "--model", str(tiny), "--query", "Oi", "--seed", "3", "--max-tokens", "8", "--json"],
        check=False, capture_output=True, text=True, env={**os.environ, "LUNA_LANG": "en"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["generator"] == "llamacpp"
    assert "llama_" not in done.stderr, "llama.cpp talks to itself"
    assert "Traceback" not in done.stderr


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_broken_template_is_wrong_use(tiny, tmp_path):
    broken = tmp_path / "broken.gguf"
    write_gguf(broken, template="{% for message in messages %}{{ message.content ")
    command = [sys.executable, "-m", "luna_kernel", "chat", "--plugins", "llamacpp", "--generator", "llamacpp"]
    asked = [*command, "--model", str(broken), "--query", "Oi"]
    done = subprocess.run(asked, capture_output=True, text=True, env={**os.environ}, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "template" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("failing", [0, 3])
def test_when_llama_cpp_cannot_go_on_that_is_said_and_the_next_answer_comes(tiny, make, monkeypatch, failing):
    generator = make(tiny)
    expected = answer(generator, Turn("Oi", sampling=Sampling(**DRAWN)))
    evaluate, calls = generator.model.llama.eval, []

    def fail(ids):
        calls.append(ids)
        if len(calls) > failing:
            raise RuntimeError("llama_decode returned 1")
        evaluate(ids)

    monkeypatch.setattr(generator.model.llama, "eval", fail)
    with pytest.raises(LunaError, match="llama_decode returned 1") as caught:
        answer(generator, Turn("Oi!", sampling=Sampling(**DRAWN)))
    assert caught.value.hint
    monkeypatch.undo()
    turn = Turn("Oi", sampling=Sampling(**DRAWN))
    assert answer(generator, turn) == expected
    assert turn.usage["cached_tokens"] == 0


def test_a_file_that_is_cut_or_damaged(tiny, make, tmp_path):
    whole = tiny.read_bytes()
    for size in (4, 23, 24, 200, len(whole) // 2, len(whole) - 100):
        path = tmp_path / f"{size}.gguf"
        path.write_bytes(whole[:size])
        with pytest.raises(UsageError, match="não consegue abrir"):
            make(path)


def test_a_file_without_a_template(tiny, make, tmp_path):
    path = tmp_path / "plain.gguf"
    write_gguf(path, template=None)
    generator = make(path)
    assert "linhas simples" in generator.describe()
    assert answer(generator, Turn("Oi", sampling=Sampling(**DRAWN)))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "não é um arquivo GGUF"),
        (b"\x89PNG....................", "não é um arquivo GGUF"),
        (b"GGUF", "não consegue abrir"),
        (b"GGUF" + b"\x09\0\0\0" + bytes(16), "versão 9"),
    ],
)
def test_what_is_no_gguf_file_is_refused_before_llama_cpp_sees_it(tmp_path, content, match):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=match) as caught:
        check_file(path)
    assert caught.value.hint


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UsageError, match="pasta"):
        check_file(tmp_path)
    with pytest.raises(UsageError, match="não existe"):
        check_file(tmp_path / "x.gguf")
    with pytest.raises(UsageError, match="que arquivo"):
        LlamaCppGenerator.open(None, plugins=load_plugins("none"))


def test_without_the_library_the_way_to_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # as Python itself does for a module that is not there
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + b"\x03\0\0\0" + bytes(16))
    with pytest.raises(UsageError, match="não está instalada") as caught:
        LlamaCppGenerator.open(str(path), plugins=load_plugins("none"))
    assert "luna-plugin-llamacpp[llama]" in caught.value.hint
