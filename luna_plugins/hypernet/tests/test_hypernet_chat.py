"""`/domain`, and one model that answers by domain after it was trained on files."""

import json

import pytest
import torch

from luna_kernel.base.errors import UsageError
from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.chat.session import Session
from luna_kernel.contracts.chat import Sampling
from luna_kernel.model.checkpoint import open_model
from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

ANSWERS = {"processo": ("Autos.", "Programa."), "sentença": ("Decisão.", "Comando."), "código": ("Leis.", "Texto.")}
DOMAINS = ("direito", "informatica")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNA_HOME", str(folder / "home"))
        patch.setenv("LUNA_LANG", "en")
        torch.set_num_threads(1)
        rows = [
            {"pergunta": f"O que é {word}?", "resposta": answer, "condition": {"domain": domain}}
            for word, answers in ANSWERS.items()
            for domain, answer in zip(DOMAINS, answers, strict=True)
        ]
        data = folder / "dados.jsonl"
        data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
        plugins = load_plugins("hypernet")
        dims = {"d_model": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "ffn_dim": 64}
        new = {"preset": "mini", "dims": dims, "components": ["domain_adapter"]}
        fields = {"run_dir": folder / "run", "train_data": (str(data),), "vocab_size": 300, "new_model": new}
        fields |= {"max_steps": 150, "batch_size": 4, "sequence_length": 48, "valid_every": 0, "valid_fraction": 0.0}
        fields |= {"precision": "fp32", "learning_rate": 1e-2, "preflight": False, "log_every": 150}
        result = train_model(TrainConfig.model_validate(fields), plugins=plugins)
        metrics = json.loads((result.run_dir / "metrics.jsonl").read_text().splitlines()[-1])
        assert {"domain/pi/0/0", "domain/entropy/1", "domain/accuracy/1", "domain/label"} <= set(metrics)
        generator = LunaGenerator(open_model(result.model_dir, selection="hypernet"))
        session = Session(plugins, generator, steps=["generate"])
        session.options.sampling = Sampling(temperature=0, max_tokens=12, repetition_penalty=1.0)
        yield session
        session.close()


def test_the_same_question_is_answered_by_domain(session):
    for domain, index in (("direito", 0), ("informatica", 1)):
        assert domain in session.command(f"/domain {domain}")
        for word, answers in ANSWERS.items():
            list(session.ask(f"O que é {word}?"))
            assert session.turns[-1].answer == answers[index]


def test_the_command_lists_completes_and_refuses(session):
    command = session.find_command("domain")
    assert command.complete("d", session) == ["direito"]
    assert command.complete("", session) == ["direito", "informatica", "off"]
    session.command("/domain direito")
    assert " * direito" in session.command("/domain")
    with pytest.raises(UsageError, match="Did you mean 'informatica'"):
        session.command("/domain informática")
    assert session.conditions == {"domain": "direito"}
    session.command("/domain off")
    assert session.conditions == {}
    assert "*" not in session.command("/domain").split("\n", 1)[1]


def test_a_generator_without_domains_says_so(session):
    plugins = load_plugins("hypernet")
    extractive = plugins.registry.get("generator", "extractive").load()()
    other = Session(plugins, extractive, steps=["generate"])
    with pytest.raises(UsageError, match="does not read"):
        other.command("/domain direito")
    assert "no domain" in other.command("/domain")
    other.close()
