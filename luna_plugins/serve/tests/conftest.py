"""A small model, and a real `luna serve` over it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

DIMS = {
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "ffn_dim": 48,
    "max_positions": 96,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def clean_environment(home: Path) -> dict[str, str]:
    """The environment without Luna's variables, in English, in a home of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LUNA_")}
    return {**kept, "LUNA_HOME": str(home), "LUNA_LANG": "en", "OMP_NUM_THREADS": "1"}


ANSWER = " ".join(f"Eu sou a Luna, e esta é a frase número {number} da minha resposta." for number in range(1, 16))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the model `papagaio`, which has learnt one long answer."""
    home = tmp_path_factory.mktemp("home")
    data = home / "data.jsonl"
    line = json.dumps({"prompt": "Quem é você?", "response": ANSWER}, ensure_ascii=False)
    data.write_text(f"{line}\n" * 8, encoding="utf-8")
    for options in (
        ["create", "--name", "papagaio", "--preset", "mini", "--plugins", "none", "--train-data", str(data)],
        [
            "train",
            "papagaio",
            "--plugins",
            "none",
            "--train-data",
            str(data),
            "--max-steps",
            "60",
            "--learning-rate",
            "3e-3",
        ],
    ):
        command = [sys.executable, "-m", "luna_kernel", *options]
        subprocess.run(command, check=True, env=clean_environment(home), capture_output=True)
    return home


class Served:
    """A running server."""

    def __init__(self, home: Path, *options: str, plugins: str = "serve", model: str = "papagaio") -> None:
        command = [sys.executable, "-m", "luna_kernel", "serve", "--model", model, "--plugins", plugins, "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *options],
            env=clean_environment(home),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.said = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                self.url = found[0]
                return
        raise AssertionError(f"the server did not start: {self.said}")

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=60, **options)

    def metric(self, name: str) -> float:
        return float(re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics").text, re.MULTILINE)[1])  # type: ignore[index]

    def until(self, name: str, value: float, seconds: float = 10) -> None:
        end = time.monotonic() + seconds
        while self.metric(name) != value:
            assert time.monotonic() < end, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.05)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stderr is not None
            self.process.stderr.close()


@pytest.fixture(scope="session")
def served(home: Path) -> Iterator[Served]:
    server = Served(home)
    yield server
    server.stop()


SUMS = [(n, m) for n in range(1, 7) for m in range(1, 5)]


@pytest.fixture(scope="session")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a model that was trained on sums, each with the thought before its answer."""
    home: Path = tmp_path_factory.mktemp("thinking")
    lines = [
        {"messages": [
            {"role": "user", "content": f"Quanto é {n} mais {m}?"},
            {"role": "assistant", "content": f"São {n + m}.", "thinking": f"Somo {n} e {m}."},
        ]}
        for n, m in SUMS
    ]  # fmt: skip
    (home / "sums.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    data = ["--plugins", "none", "--train-data", str(home / "sums.jsonl")]
    for options in (
        ["create", "--name", "sums", "--preset", "mini", *data],
        ["train", "sums", *data, "--max-steps", "250", "--learning-rate", "4e-3", "--batch-size", "4"],
    ):
        command = [sys.executable, "-m", "luna_kernel", *options]
        subprocess.run(command, check=True, env=clean_environment(home), capture_output=True)
    server = Served(home, model="sums")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    plugins = load_plugins("none")
    blueprint = Blueprint.from_preset("mini", plugins.registry, vocab_size=61, dims=DIMS)
    torch.manual_seed(0)
    return Decoder(blueprint, plugins.registry).eval()
