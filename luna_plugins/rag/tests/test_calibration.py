"""The shift of a knowledge base: what is answered where nothing answers, and when it is tried again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_rag import calibration
from luna_plugin_rag.calibration import Calibration, calibrate, confidence, fit, question_of, shifted
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase

from luna_kernel.cli.main import cli
from luna_kernel.plugins.registry import Registry

Write = Callable[..., Path]
PROBABILITIES = st.lists(st.lists(st.floats(0, 1), max_size=4), min_size=1, max_size=40)


@given(st.floats(0.001, 0.999), st.floats(-3, 3), st.floats(-3, 3))
def test_shifts_add_up_and_keep_the_order(probability: float, first: float, second: float) -> None:
    assert shifted(shifted(probability, first), second) == pytest.approx(shifted(probability, first + second))
    assert shifted(probability, 0.0) == pytest.approx(probability)
    assert (shifted(probability, first) < probability) == (first < 0) or first == pytest.approx(0, abs=1e-9)
    assert shifted(0.0, first) == 0
    assert shifted(1.0, first) == 1


@settings(deadline=None)
@given(PROBABILITIES, st.floats(0.02, 0.5))
def test_no_more_than_allowed_are_answered_and_hardly_less_is_taken_away(
    answers: list[list[float]], allowed: float
) -> None:
    def answered(shift: float) -> float:
        shares = [confidence([shifted(value, shift) for value in one]) >= calibration.THRESHOLD for one in answers]
        return sum(shares) / len(answers)

    shift = fit(answers, allowed)
    assert -calibration.MOST <= shift <= 0
    assert answered(shift) <= allowed or shift == -calibration.MOST
    if shift < 0:
        assert answered(shift + 0.01) > allowed


def test_a_question_is_a_run_of_a_sentence() -> None:
    text = "Curto. O ferreiro Zebedeu fundiu o sino da capela de Santa Rita em março. Fim."
    for seed in range(20):
        question = question_of(text, random.Random(seed))
        assert question is not None
        assert 8 <= len(question.split()) <= 14
        assert question in text
    assert question_of("Curto. Muito curto.", random.Random(0)) is None


def passages(count: int, files: int) -> tuple[dict[int, str], dict[int, str]]:
    """Files and texts of chunks; each has words of its own."""
    names = {number: f"f{number % files}" for number in range(1, count + 1)}
    return names, {number: " ".join(f"p{number}w{word}" for word in range(12)) for number in names}


def test_the_own_file_is_left_out_and_copies_are_no_wrong_answers() -> None:
    files, texts = passages(240, 6)
    asked: list[str] = []

    def ask(question: str, found: object) -> list[tuple[str, float]]:
        own = int(question.split()[0][1:].split("w")[0])
        assert own not in found
        assert len(found) == 200
        assert sum(1 for chunk in found if files[chunk] == files[own]) == 0
        asked.append(question)
        # An even one has a copy in another file, which is surely found; of the others a third find something.
        return [(texts[own], 0.99)] if own % 2 == 0 else [("outra coisa", 0.4 if own % 3 == 0 else 0.01)]

    made = calibrate(files, lambda ids: ((number, texts[number]) for number in ids), ask, allowed=0.08)
    assert len(asked) == calibration.QUESTIONS
    assert 80 < made.questions < 120
    assert 0.25 < made.answered_before < 0.42
    assert made.answered == 0.0
    assert shifted(0.4, made.shift) == pytest.approx(calibration.THRESHOLD, abs=0.01)


@pytest.mark.parametrize(("count", "files"), [(240, 4), (150, 10), (0, 1)])
def test_little_to_go_by_leaves_all_as_it_is(count: int, files: int) -> None:
    names, texts = passages(count, files)
    made = calibrate(names, lambda ids: ((n, texts[n]) for n in ids), lambda *_: [("x", 0.9)], allowed=0.08)
    assert (made.shift, made.questions) == (0.0, 0)


def test_what_changed_little_is_not_tried_again() -> None:
    made = Calibration(-0.2, 200, 0.2, 0.08, 1000, 1000, "a")
    assert Calibration.from_json(made.to_json()) == made
    assert made.holds(set(range(1, 1001)), "a")
    assert made.holds(set(range(31, 1061)), "a")
    assert not made.holds(set(range(1, 1001)), "b")
    assert not made.holds(set(range(61, 1061)), "a")  # as many as before, and others
    assert not made.holds(set(range(1, 1102)), "a")
    for broken in (None, "", "[]", "{}", '{"shift": 1}'):
        assert Calibration.from_json(broken) is None


def test_a_knowledge_base_is_calibrated_when_it_is_filled(
    write: Write, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of one form: a question of one is answered by the others until the shift says no."""
    for name, value in (("LEAST_CHUNKS", 20), ("LEAST_QUESTIONS", 10)):
        monkeypatch.setattr(calibration, name, value)
    rng = random.Random(3)
    towns = ["Aldeia", "Barroca", "Canela", "Dourado", "Esteio", "Figueira"]
    things = ["sino", "ponte", "mercado", "moinho", "escola", "feira", "igreja", "estrada", "capela", "padeiro"]

    def page(town: str) -> str:
        def line() -> str:
            first, second = rng.sample(things, 2)
            return f"Em {town} o {first} fica perto do {second} e abre no dia {rng.randint(1, 28)} de março."

        return "\n\n".join(line() for _ in range(8))

    config = KnowledgeConfig(chunker={"name": "paragraph", "max_chars": 90, "min_chars": 0})
    docs = write(**{f"{town}.md": page(town) for town in towns})
    place = tmp_path / "kb"
    with KnowledgeBase(place, registry, config.model_copy(update={"false_answers": None})) as kb:
        kb.sync([docs])
        assert kb.calibration() is None
        plain = kb.search("o sino fica perto da ponte em março", threshold=0).confidence
    with KnowledgeBase(place, registry, config) as kb:
        kb.sync([docs])
        made = kb.calibration()
        assert made is not None
        assert made.questions >= 10
        assert made.answered_before > made.answered + 0.1
        assert kb.search("o sino fica perto da ponte em março", threshold=0).confidence < plain
        monkeypatch.setattr(calibration, "QUESTIONS", 15)
        kb.sync([docs])
        assert kb.calibration() == made
        write(**{"Gaivota.md": page("Gaivota")})
        kb.sync([docs])
        again = kb.calibration()
        assert again is not None
        assert again.chunks > made.chunks
    other = config.model_copy(update={"retrievers": ({"name": "tfidf"},)})
    with KnowledgeBase.open(place, registry, other) as kb:
        assert kb.calibration() is None, "it was tried with other retrievers"
    done = CliRunner().invoke(cli, ["--plugins", "rag", "kb", "stats", "--kb", str(place), "--json"])
    assert json.loads(done.stdout)["calibration"]["shift"] == again.shift
    done = CliRunner().invoke(cli, ["--plugins", "rag", "kb", "stats", "--kb", str(place)])
    assert "perguntas de teste" in done.stdout
