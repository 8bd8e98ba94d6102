"""A model that was shown how to think thinks: asked for, shown or hidden, kept, and left out of the history."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.chat.store import SessionStore
from luna_kernel.contracts.chat import Sampling, Text, Thinking
from luna_kernel.plugins import Plugins, load_plugins
from luna_kernel.plugins.manifest import Manifest
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

pytestmark = pytest.mark.slow

SIZES = {"d_model": 64, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 32, "ffn_dim": 128}
SUMS = [(n, m) for n in range(1, 7) for m in range(1, 5)]
GREEDY = Sampling(temperature=0.0, max_tokens=40, repetition_penalty=1.0)


def question(n: int, m: int) -> str:
    return f"Quanto é {n} mais {m}?"


def thought(n: int, m: int) -> str:
    return f"Somo {n} e {m}."


def answer(n: int, m: int) -> str:
    return f"São {n + m}."


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins("none")


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory, plugins: Plugins) -> Path:
    """The folder of a model that was trained on sums, each with the thought before its answer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("thinker")
    lines = [
        {"messages": [
            {"role": "user", "content": question(n, m)},
            {"role": "assistant", "content": answer(n, m), "thinking": thought(n, m)},
        ]}
        for n, m in SUMS
    ]  # fmt: skip
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    config = {
        "run_dir": folder / "run", "save_to": folder / "model", "train_data": (str(folder / "sums.jsonl"),),
        "valid_fraction": 0, "new_model": {"preset": "mini", "dims": {**SIZES, "max_positions": 256}},
        "vocab_size": 300, "max_steps": 250, "batch_size": 4, "learning_rate": 4e-3, "precision": "fp32",
        "preflight": False,
    }  # fmt: skip
    return train_model(TrainConfig.model_validate(config), plugins=plugins).model_dir


@pytest.fixture
def session(thinker: Path, plugins: Plugins) -> Iterator[Session]:
    opened = _session(thinker, plugins)
    yield opened
    opened.close()


def _session(thinker: Path, plugins: Plugins, **options: object) -> Session:
    generator = LunaGenerator.open(str(thinker), plugins=plugins)
    made = SessionOptions(sampling=GREEDY, show_thinking=True)
    return Session(plugins, generator, store=SessionStore(), options=made, **options)  # type: ignore[arg-type]


def test_training_says_that_the_model_can_think(thinker: Path) -> None:
    assert Manifest.read(thinker).chat["thinking"] is True


def test_it_thinks_before_it_answers_and_is_right(session: Session) -> None:
    events = list(session.ask(question(3, 4)))
    assert next(type(event) for event in events if isinstance(event, Text | Thinking)) is Thinking
    turn = session.turns[-1]
    assert (turn.thinking, turn.answer) == (thought(3, 4), answer(3, 4))
    assert session.store is not None
    assert session.store.turns(session.id)[-1].thinking == thought(3, 4)


def test_hidden_it_does_not_think(session: Session) -> None:
    session.command("/thinking off")
    events = list(session.ask(question(2, 2)))
    assert not [event for event in events if isinstance(event, Thinking)]
    assert session.turns[-1].thinking == ""


def test_thoughts_are_no_part_of_the_history_unless_asked(thinker: Path, plugins: Plugins) -> None:
    for steps, kept in (((), None), ([{"name": "history", "thoughts": True}, "generate"], thought(1, 2))):
        session = _session(thinker, plugins, **({"steps": steps} if steps else {}))
        for pair in ((1, 2), (5, 1)):
            list(session.ask(question(*pair)))
        assert [message.thinking for message in session.turns[-1].history] == [None, kept]
        prompt = session.generator.tokenizer.decode(session.turns[-1].prompt_ids, controls=True)  # type: ignore[attr-defined]
        assert prompt.count(thought(1, 2)) == (kept is not None)
        assert session.turns[-1].thinking
        assert session.turns[-1].thinking in prompt, "its own thought stands before the answer"
        session.close()


def test_the_command_line_shows_hides_and_reports_it(thinker: Path, tmp_path: Path) -> None:
    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "luna_kernel", "chat", "--model", str(thinker), "--plugins", "none"]
        drawn = ["--temperature", "0", "--repetition-penalty", "1"]
        return subprocess.run(
            [*command, *drawn, *options], check=True, capture_output=True, text=True, env={**os.environ}
        )

    asked = ("--query", question(2, 3))
    shown, hidden = run(*asked, "--thinking", "--json"), run(*asked, "--json")
    assert json.loads(shown.stdout)["thinking"] == thought(2, 3)
    assert json.loads(shown.stdout)["answer"] == answer(2, 3)
    assert "thinking" not in json.loads(hidden.stdout)
    assert run(*asked, "--thinking").stdout.strip() == answer(2, 3), "stdout is for the answer"
    batch, output = tmp_path / "batch.json", tmp_path / "out.json"
    batch.write_text(json.dumps([{"query": question(1, 1)}]), encoding="utf-8")
    run("--batch", str(batch), "--output", str(output), "--thinking")
    assert thought(1, 1) in output.read_text(encoding="utf-8")
