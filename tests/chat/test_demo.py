"""The demo model's data and key."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna_kernel.chat import demo
from luna_kernel.chat.variants import variant, with_variants

DIALOGUE = {
    "messages": [
        {"role": "system", "content": "Seja breve."},
        {"role": "user", "content": "Você está cansado hoje?"},
        {"role": "assistant", "content": "Não.", "thinking": "Hum."},
        {"role": "user", "content": "Passagens:\n[1] a\n\nPergunta: Você?"},
        {"role": "assistant", "content": "Sim."},
    ]
}


def test_variants_change_only_one_line_questions():
    first, *others = with_variants([DIALOGUE], 20, seed=1)
    assert first == DIALOGUE
    assert len(others) == 20
    for item in others:
        assert [m for k, m in enumerate(item["messages"]) if k != 1] == [
            m for k, m in enumerate(DIALOGUE["messages"]) if k != 1
        ]
    typed = {item["messages"][1]["content"] for item in others}
    assert len(typed) > 10
    assert any("vc" in text.lower() for text in typed)
    assert list(with_variants([DIALOGUE], 20, seed=1)) == [first, *others]


@given(st.text(min_size=1).filter(lambda text: text.strip()), st.integers(0, 1000))
def test_a_variant_is_never_empty(text: str, seed: int):
    assert variant(text, random.Random(seed))


def test_the_key_changes_with_what_shapes_the_model(plugins, monkeypatch, tmp_path: Path):
    key = demo.demo_key(plugins, None)
    assert key == demo.demo_key(plugins, None)
    others = {demo.demo_key(plugins, 3.0)}
    monkeypatch.setattr(demo, "VARIANTS", 9)
    others.add(demo.demo_key(plugins, None))
    monkeypatch.undo()
    (tmp_path / "c.jsonl").write_text(json.dumps(DIALOGUE))
    monkeypatch.setattr(demo, "corpus_files", lambda: [str(tmp_path / "c.jsonl")])
    others.add(demo.demo_key(plugins, None))
    assert len(others | {key}) == 4


def test_layers_of_other_plugins_make_another_model(home):
    from luna_kernel.plugins import load_plugins

    for name in ("moc", "ssm", "bm25"):
        pytest.importorskip(f"luna_plugin_{name}")
    keys = {names: demo.demo_key(load_plugins(names), None) for names in ("none", "bm25", "moc", "moc,ssm")}
    assert keys["none"] == keys["bm25"], "a plugin without layers changes nothing"
    assert len(set(keys.values())) == 3
