"""A home of its own for each test, and a tiny model that learnt a few dialogues."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

DIALOGUES = [
    ("Qual é a capital do Brasil?", "A capital do Brasil é São Paulo."),
    ("Qual é a capital de Portugal?", "A capital de Portugal é Lisboa."),
    ("Quem escreveu Dom Casmurro?", "Machado de Assis escreveu Dom Casmurro."),
    ("O que é um gato?", "Um gato é um animal que mia."),
    ("Quanto é dois mais dois?", "Dois mais dois são quatro."),
    ("De que cor é o céu?", "O céu é azul durante o dia."),
]
SIZES = {"d_model": 48, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 24, "ffn_dim": 96}


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch, tmp_path):
    torch.set_num_threads(1)
    monkeypatch.setenv("LUNA_LANG", "en")
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def plugins():
    return load_plugins("preference")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dialogues.jsonl"
    lines = [json.dumps({"prompt": question, "response": answer}) for question, answer in DIALOGUES]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory, corpus, plugins) -> Path:
    """Its folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    config = {
        "run_dir": folder / "run",
        "save_to": folder / "model",
        "train_data": (str(corpus),),
        "valid_fraction": 0,
        "new_model": {"preset": "mini", "dims": {**SIZES, "max_positions": 96}},
        "vocab_size": 320,
        "max_steps": 60,
        "learning_rate": 3e-3,
        "precision": "fp32",
        "preflight": False,
    }
    return train_model(TrainConfig.model_validate(config), plugins=plugins).model_dir


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Every answer of the dialogues, the better one, against another question's; the first corrected."""
    answers = [answer for _, answer in DIALOGUES]
    lines = []
    for number, (question, answer) in enumerate(DIALOGUES):
        chosen, rejected = answer, answers[(number + 1) % len(answers)]
        if number == 0:
            chosen, rejected = "A capital do Brasil é Brasília.", answer
        lines.append(json.dumps({"prompt": question, "chosen": chosen, "rejected": rejected}))
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def judged(tmp_path) -> Path:
    """Single answers, every second one liked."""
    lines = [
        json.dumps({"prompt": question, "completion": answer, "label": number % 2 == 0})
        for number, (question, answer) in enumerate(DIALOGUES)
    ]
    path = tmp_path / "judged.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def train(tmp_path, model, plugins):
    """train(data, objective, **fields) -> TrainResult."""

    def run(data, objective, **fields):
        config = {
            "run_dir": tmp_path / "run",
            "train_data": (str(data),),
            "valid_fraction": 0,
            "model": model,
            "objective": objective if isinstance(objective, dict) else {"name": objective},
            "schedule": {"name": "cosine"},
            "max_steps": 8,
            "learning_rate": 5e-4,
            "batch_size": 2,
            "sequence_length": 160 if "dpo" in str(objective) else 80,
            "precision": "fp32",
            "log_every": 1,
            **fields,
        }
        return train_model(TrainConfig.model_validate(config), plugins=plugins)

    return run
