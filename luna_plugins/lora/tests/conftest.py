"""A home of its own for each test, and a tiny model that is there already."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

DIALOGUES = [(f"Diga {word}.", f"A palavra é {word}.") for word in ("casa", "gato", "rio", "sol", "lua", "flor")]
SIZES = {"d_model": 48, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 24, "ffn_dim": 96}


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch, tmp_path):
    torch.set_num_threads(1)
    monkeypatch.setenv("LUNA_LANG", "en")
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def plugins():
    return load_plugins("lora")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dialogues.jsonl"
    lines = [json.dumps({"prompt": question, "response": answer}) for question, answer in DIALOGUES]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def config_of(folder: Path, corpus: Path, **fields) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "run_dir": folder,
            "train_data": (str(corpus),),
            "valid_fraction": 0,
            "max_steps": 10,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "sequence_length": 48,
            "precision": "fp32",
            "log_every": 1,
            "preflight": False,
            **fields,
        }
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory, corpus) -> Path:
    """Its folder."""
    torch.set_num_threads(1)
    new = {"preset": "mini", "dims": {**SIZES, "max_positions": 96}}
    config = config_of(
        tmp_path_factory.mktemp("model") / "run",
        corpus,
        new_model=new,
        vocab_size=300,
        max_steps=40,
        learning_rate=3e-3,
    )
    return train_model(config, plugins=load_plugins("none")).model_dir


@pytest.fixture
def train(tmp_path, model, corpus, plugins):
    """train(**fields) -> TrainResult, with the adapter."""

    def run(**fields):
        given = {"run_dir": tmp_path / "run", "model": model, "adapter": {"name": "lora"}, **fields}
        folder = given.pop("run_dir")
        return train_model(config_of(folder, corpus, **given), plugins=plugins)

    return run
