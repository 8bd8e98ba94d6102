"""Cues: what they match, and how well they do on labelled turns that they were not written with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from luna_plugin_proactive.opportunities import find_opportunity, is_vague, refuses
from luna_plugin_proactive.signals import compile_cue, encode, find_signals
from luna_plugin_proactive.statements import find_contradiction

TURNS = [json.loads(line) for line in (Path(__file__).parent / "turns.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("cue", "text", "found"),
    [
        ("~procurar", "Andava procurando", True),
        ("~procurar", "provar", False),
        ("~ajudar", "ela ajuda", True),
        ("nao sei se", "NAO SEI SE vou", True),
        ("nao sei se", "não sei bem se vou", False),
        ("nao sei * se", "não sei bem se vou", True),
        ("nao sei * se", "não sei o que ele quer dizer se vier", False),
        ("em|na ~duvida", "estou nas dúvidas", False),
        ("em|na ~duvida", "estou em dúvidas", True),
        ("^ sim $", "sim?", True),
        ("^ sim $", "sim, claro", False),
        ("~ajuda ?", "quer ajuda?", True),
        ("~ajuda ?", "quero ajuda", False),
    ],
)
def test_a_cue(cue: str, text: str, found: bool) -> None:
    assert bool(compile_cue(cue).search(encode(text))) is found


@pytest.mark.parametrize(
    "text",
    ["Preciso de ajuda.", "PRECISO DE AJUDA", "preciso d'ajuda", "Precisávamos de uma ajuda."],
)
def test_accents_capitals_and_forms_do_not_matter(text: str) -> None:
    assert "help" in {signal.kind for signal in find_signals(text)}


@pytest.mark.parametrize("text", ["Não preciso de ajuda.", "Nunca precisei de ajuda.", "Preciso sair. Que ajuda!"])
def test_a_denied_cue_and_one_across_clauses_do_not_count(text: str) -> None:
    assert "help" not in {signal.kind for signal in find_signals(text) if signal.confidence > 0.6}


def test_weak_cues_add_up() -> None:
    one = next(s.confidence for s in find_signals("Talvez.") if s.kind == "indecision")
    two = next(s.confidence for s in find_signals("Talvez, tanto faz.") if s.kind == "indecision")
    assert one < 0.6 < two


@pytest.mark.parametrize(
    ("earlier", "later", "found"),
    [
        ("A loja abre aos domingos.", "A loja não abre aos domingos.", True),
        ("A loja abre aos domingos.", "A loja não abre aos domingos?", False),
        ("A loja abre aos domingos.", "A padaria não abre aos domingos.", False),
        ("Tenho 3 gatos.", "Tenho três gatos.", False),
        ("Tenho 3 gatos.", "Tenho quatro gatos.", True),
        ("Tenho 3 gatos.", "Não tenho quatro gatos.", False),
        ("Adoro jiló.", "Não gosto de jiló.", True),
        ("Não gosto de jiló.", "Adoro jiló.", True),
        ("Não gosto de jiló.", "Não gosto de chuchu.", False),
    ],
)
def test_contradictions(earlier: str, later: str, found: bool) -> None:
    assert (find_contradiction(later, [earlier]) is not None) is found


def test_the_newest_contradiction_is_named() -> None:
    pair = find_contradiction("O prazo é de 9 dias.", ["O prazo é de 7 dias.", "O prazo é de 8 dias."])
    assert pair is not None
    assert "8" in pair[0].text


@pytest.mark.parametrize(
    ("text", "vague"),
    [
        ("E isso?", True),
        ("Arquivo", True),
        ("Quanto custa?", True),
        ("Quanto custa o plano anual?", False),
        ("", False),
    ],
)
def test_vague_messages(text: str, vague: bool) -> None:
    assert is_vague(text) is vague


@pytest.mark.parametrize("text", ["não", "Não, obrigada.", "Não precisa.", "Dispenso sugestões", "agora não"])
def test_refusals(text: str) -> None:
    assert refuses(text)
    assert find_opportunity(text, []) is None


def test_precision_and_recall_on_the_half_that_was_held_out() -> None:
    right = given = wanted = 0
    for turn in TURNS:
        if int(hashlib.sha256(turn["text"].encode()).hexdigest()[0], 16) % 2 == 1:
            found = find_opportunity(turn["text"], turn.get("before", []))
            given += found is not None
            wanted += turn["label"] != "none"
            right += found is not None and found.kind == turn["label"]
    assert wanted >= 80
    assert right / given >= 0.9
    assert right / wanted >= 0.7
