"""`--set` of `luna create` and `luna train`, and `--low-memory`, through the real command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

SMALL = ("--preset", "mini", "--vocab-size", "300")


def blueprint(home: Path, name: str) -> dict[str, Any]:
    return json.loads((home / "data" / "models" / name / "luna.json").read_text(encoding="utf-8"))["blueprint"]


def test_create_sets_fields_of_the_layers(luna, tmp_path: Path):
    options = ("--set", "attention.window=32", "--set", "attention.sinks=2", "--set", "rope.scaling=ntk")
    done = luna("create", "--plugins", "none", "--name", "m", *SMALL, *options)
    assert done.returncode == 0, done.stderr
    made = blueprint(tmp_path / "home", "m")
    assert [(block["mixer"]["window"], block["mixer"]["sinks"]) for block in made["blocks"]] == [(32, 2)] * 2
    assert made["position"]["scaling"] == "ntk"


@pytest.mark.parametrize(
    ("option", "english", "portuguese"),
    [
        ("attention.windw=8", "Did you mean “window”?", "Você quis dizer “window”?"),
        ("atention.window=8", "This model has: rope, attention, swiglu", "Este modelo tem: rope, attention, swiglu"),
        ("attention.window=wide", "attention: field “window”", "attention: campo “window”"),
        ("rope.scaling=yarm", "is one of none, linear, ntk", "é um de none, linear, ntk"),
        ("attention=8", "NAME.FIELD=VALUE", "NOME.CAMPO=VALOR"),
    ],
)
def test_bad_fields_leave_nothing(luna, tmp_path: Path, option: str, english: str, portuguese: str):
    for lang, words in (("en", english), ("pt", portuguese)):
        done = luna("create", "--plugins", "none", "--lang", lang, "--name", "m", *SMALL, "--set", option)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert "--train-data" not in done.stderr, "said before the tokenizer is trained"
        assert not (tmp_path / "home" / "data" / "models" / "m").exists()


def training(folder: Path, **fields: Any) -> Path:
    text = folder / "texto.txt"
    text.write_text("O gato dorme no telhado da casa. " * 60, encoding="utf-8")
    dims = {"d_model": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 16, "ffn_dim": 64}
    data = {
        "run_dir": str(folder / "run"), "train_data": [str(text)], "vocab_size": 300, "objective": {"name": "lm"},
        "max_steps": 1, "batch_size": 2, "sequence_length": 16, "valid_fraction": 0, "preflight": False,
        "new_model": {"preset": "mini", "dims": dims, "configs": {"attention": {"window": 8, "sinks": 1}}}, **fields,
    }  # fmt: skip
    file = folder / "t.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


def test_train_sets_fields_over_the_files(luna, tmp_path: Path):
    file = training(tmp_path)
    done = luna("train", str(file), "--plugins", "none", "--set", "attention.window=12", "--set", "rope.theta=500")
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "run" / "model" / "luna.json").read_text(encoding="utf-8"))["blueprint"]
    assert {(block["mixer"]["window"], block["mixer"]["sinks"]) for block in made["blocks"]} == {(12, 1)}
    assert made["position"]["theta"] == 500


def test_train_refuses_what_no_model_takes(luna, tmp_path: Path, tiny_model: Path):
    for option, words in (("attention.windw=8", "window"), ("moc.context=full", "moc")):
        done = luna("train", str(training(tmp_path)), "--plugins", "none", "--set", option)
        assert done.returncode == 2
        assert words in done.stderr
    done = luna("train", str(training(tmp_path, new_model={"configs": {"moc": {}}})), "--plugins", "none")
    assert done.returncode == 2, "a file's fields are held to the same"
    assert "moc" in done.stderr
    assert not (tmp_path / "run" / "model").exists()
    shutil.copytree(tiny_model, tmp_path / "home" / "data" / "models" / "m")
    done = luna("train", "m", "--train-data", str(tmp_path / "texto.txt"), "--set", "attention.window=8")
    assert done.returncode == 2
    assert "luna create --set" in done.stderr
    assert not (tmp_path / "home" / "data" / "runs" / "m" / "model").exists()


def test_low_memory_answers_the_same(luna, tmp_path: Path, tiny_model: Path):
    shutil.copytree(tiny_model, tmp_path / "home" / "data" / "models" / "m")
    ask = ("chat", "m", "--plugins", "none", "--query", "Olá, café?", "--seed", "3", "--json")
    plain, low = luna(*ask), luna(*ask, "--low-memory")
    assert (plain.returncode, low.returncode) == (0, 0), plain.stderr + low.stderr
    answers = [json.loads(done.stdout) for done in (plain, low)]
    assert answers[0]["answer"] == answers[1]["answer"]
    assert answers[0]["usage"] == answers[1]["usage"]
    assert answers[0]["usage"]["completion_tokens"] > 1
    told = [done.stderr for done in (luna(*ask[:-1]), luna(*ask[:-1], "--low-memory"))]
    assert "2 blocks" not in told[0]
    assert "2 blocks" in told[1]
