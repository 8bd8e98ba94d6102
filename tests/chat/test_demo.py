"""The demo model's data and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luna_kernel.chat import demo

DIALOGUE = {
    "messages": [
        {"role": "system", "content": "Seja breve."},
        {"role": "user", "content": "Você está cansado hoje?"},
        {"role": "assistant", "content": "Não.", "thinking": "Hum."},
        {"role": "user", "content": "Passagens:\n[1] a\n\nPergunta: Você?"},
        {"role": "assistant", "content": "Sim."},
    ]
}


def test_the_key_changes_with_what_shapes_the_model(plugins, monkeypatch, tmp_path: Path):
    key = demo.demo_key(plugins, None)
    assert key == demo.demo_key(plugins, None)
    others = {demo.demo_key(plugins, 3.0)}
    monkeypatch.setattr(demo, "CHAT", {})
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
