"""A home of its own for each test, a session whose generator answers what it is told to, a tiny trained model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from luna_plugin_feedback.entry import Entry

from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.contracts.chat import Citation, Event, Generator, Text, Turn
from luna_kernel.plugins import Plugins, load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

DIALOGUES = [(f"Diga a palavra {word}.", f"A palavra é {word}. Quer ouvir mais uma?") for word in (
    "casa", "gato", "livro", "mesa", "porta", "rio", "sol", "lua", "flor", "pedra", "carro", "barco", "praia", "noite",
    "folha", "vento",
)]  # fmt: skip
KNOWN = [(f"Quanto é {n} mais um?", f"{n} mais um são {n + 1}.") for n in range(12)]
SIZES = {"d_model": 48, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 24, "ffn_dim": 96}


class Fixed(Generator):
    """Answers in capitals, with a citation."""

    name = "luna"

    def generate(self, turn: Turn, stop: Callable[[], bool]) -> Iterator[Event]:
        yield Text(turn.query.upper())
        turn.citations.append(Citation(1, "a.md", "A", 0, 3, "abc", 1))
        turn.stop_reason, turn.generator = "end", self.name


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    for name in [name for name in os.environ if name.startswith("LUNA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "en")
    return tmp_path / "home"


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return load_plugins("feedback")


@pytest.fixture
def session(plugins: Plugins) -> Iterator[Session]:
    opened = Session(plugins, Fixed(), options=SessionOptions(model="m1"))
    yield opened
    opened.close()


def ask(session: Session, *questions: str) -> None:
    for question in questions:
        list(session.ask(question))


def entry(question: str = "Oi?", answer: str = "Olá.", **fields: object) -> Entry:
    return Entry(({"role": "user", "content": question},), answer, **fields)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dialogues that the model knows and that no feedback is about."""
    path = tmp_path_factory.mktemp("data") / "known.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": q, "response": a}) for q, a in KNOWN), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins, known: Path) -> Path:
    """Its folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    data = folder / "all.jsonl"
    lines = [json.dumps({"prompt": q, "response": a}) for q, a in DIALOGUES]
    data.write_text("\n".join([*lines, known.read_text(encoding="utf-8")]), encoding="utf-8")
    config = {
        "run_dir": folder / "run",
        "save_to": folder / "small",
        "train_data": (str(data),),
        "valid_fraction": 0,
        "new_model": {"preset": "mini", "dims": {**SIZES, "max_positions": 128}},
        "vocab_size": 320,
        "max_steps": 150,
        "batch_size": 4,
        "learning_rate": 4e-3,
        "precision": "fp32",
        "preflight": False,
    }
    return train_model(TrainConfig.model_validate(config), plugins=plugins).model_dir
