"""Small models of every kind with a tokenizer, and conversations with them; messages are Portuguese."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.contracts.chat import Generator, Sampling
from luna_kernel.data.tokenizer import Tokenizer
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import open_model, save_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

OTHERS = ("moc", "moe", "ssm", "rag", "chunking")
PLUGINS = ",".join(["educational", *(name for name in OTHERS if find_spec(f"luna_plugin_{name}"))])
NEEDED = {"moe": ("moe",), "moc": ("moc",), "ssm": ("ssm",), "hybrid": ("ssm",), "mixed": ("ssm", "moc")}
"""What the kinds of model in `NODES` are made of; without it their tests are skipped."""
SEARCH = ("rag", "chunking", "bm25", "tfidf")
DIMS = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 64}
MOC = {"name": "moc", "num_experts": 4, "top_k": 2, "fusion": "attend"}
MOE = {"name": "moe", "num_experts": 4, "top_k": 2}
NODES: dict[str, dict[str, dict[str, Any]]] = {
    "dense": {},
    "window": {"blocks.1.mixer": {"name": "attention", "window": 4, "sinks": 1}},
    "moe": {"blocks.1.ffn": MOE},
    "moc": {"blocks.0.ffn": MOC, "blocks.1.ffn": MOC},
    "ssm": {"blocks.0.mixer": {"name": "ssm"}, "blocks.1.mixer": {"name": "ssm"}},
    "hybrid": {"blocks.0.mixer": {"name": "hybrid"}},
    "mixed": {"blocks.0.mixer": {"name": "ssm"}, "blocks.1.ffn": MOC},
}
TEXT = "Olá! A ação de hoje não é à toa: café, pão e coração. São 12 pães."


def need(*names: str) -> None:
    """Skip the test where one of these plugins is not installed."""
    for name in names:
        pytest.importorskip(f"luna_plugin_{name}")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LUNA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT] * 3, 400)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Callable[[str], Path]:
    """`model_folder("mixed")`: an untrained model of that kind on disk, its weights moved away from birth."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        need(*NEEDED.get(kind, ()))
        if kind not in made:
            plugins = load_plugins(PLUGINS)
            size = {"vocab_size": tokenizer.vocab_size, "dims": {**DIMS, "max_positions": 256}}
            blueprint = Blueprint.from_preset("mini", load_plugins("none").registry, **size)
            for place, node in NODES[kind].items():
                blueprint = blueprint.with_node(place, node)
            torch.manual_seed(0)
            model = Decoder(blueprint, plugins.registry)
            with torch.no_grad():
                for weight in model.parameters():
                    weight += 0.1 * torch.randn_like(weight)
            made[kind] = tmp_path_factory.mktemp("models") / kind
            save_model(made[kind], model, plugins=plugins, tokenizer=tokenizer)
        return made[kind]

    return make


@pytest.fixture
def converse(model_folder: Callable[[str], Path]) -> Iterator[Callable[..., Session]]:
    """`converse("mixed", docs=(…), steps=[…], educational=True)`: a conversation; `converse(None, …)`: it quotes."""
    opened: list[Session] = []

    def make(
        kind: str | None = "mixed",
        docs: tuple[Path, ...] = (),
        steps: list[Any] | None = None,
        sampling: Sampling | None = None,
        **options: Any,
    ) -> Session:
        if docs:
            need(*SEARCH)
        plugins = load_plugins(PLUGINS + (",bm25,tfidf" if docs else ""))
        generator: Generator
        if kind is None:
            generator = plugins.registry.get("generator", "extractive").load()()
        else:
            generator = LunaGenerator(open_model(model_folder(kind), selection=PLUGINS))
        sampling = sampling or Sampling(max_tokens=12, temperature=0.8, top_k=20, top_p=0.9, seed=1)
        chosen = SessionOptions(sampling=sampling, docs=docs, **options)
        opened.append(Session(plugins, generator, steps=steps, options=chosen))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


@pytest.fixture
def ask() -> Callable[..., str]:
    """`ask(session, question)`: everything that was said about it but the answer."""

    def run(session: Session, question: str = "Olá! O que é café?") -> str:
        return "".join(
            getattr(event, "text", "") for event in session.ask(question) if type(event).__name__ == "Notice"
        )

    return run
