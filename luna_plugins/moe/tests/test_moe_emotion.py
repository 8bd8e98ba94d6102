"""Emotional routing from the data to the chat, and the report of what an emotion changes."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from luna_plugin_moe.command import EmotionCommand
from luna_plugin_moe.emotions import EMOTIONS, parse_emotion, show_emotion
from luna_plugin_moe.report import divergence, mutual_information, report

from luna_kernel.base.errors import UsageError
from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.chat.session import Session
from luna_kernel.contracts.chat import Sampling
from luna_kernel.model.blueprint import Blueprint, model_components
from luna_kernel.model.checkpoint import open_model, save_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "ffn_dim": 32}
NODE = {"num_experts": 4, "router": {"name": "emotional", "rank": 4}}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "en")


@pytest.fixture(scope="module")
def plugins():
    return load_plugins("moe")


def new_model(plugins, node=NODE):
    torch.manual_seed(0)
    blueprint = Blueprint.from_preset(
        "mini", plugins.registry, vocab_size=64, components=["moe"], configs={"moe": node}, dims=SIZES
    )
    return Decoder(blueprint, plugins.registry).eval()


def stir(model):
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
        for block in model.blocks:
            if hasattr(getattr(block.ffn, "router", None), "direct"):
                block.ffn.router.direct.normal_(std=1.5)  # feelings run high
    return model


# --- how people write it ----------------------------------------------------------------------------------------------


def test_an_emotion_is_written_in_both_languages():
    assert parse_emotion("joy=0.8 curiosidade=0,5") == {"alegria": 0.8, "curiosidade": 0.5}
    assert parse_emotion("Confiança trust=0.2") == {"confiança": 0.2}
    assert parse_emotion("empathy") == {"empatia": 1.0}
    assert show_emotion({"curiosidade": 0.5, "alegria": 1.0}) == "alegria=1 curiosidade=0.5"
    with pytest.raises(UsageError, match="Did you mean joy"):
        parse_emotion("joyy=1")
    for bad in ("joy=2", "joy=-1", "joy=", "joy=x", "joy=nan"):
        with pytest.raises(UsageError, match="0 to 1"):
            parse_emotion(bad)


# --- the report -------------------------------------------------------------------------------------------------------


def test_mutual_information_against_its_definition():
    counts = torch.tensor([[3, 1, 0], [2, 2, 5]])
    p = counts.double() / counts.sum()
    expected = sum(
        float(p[i, j]) * math.log(float(p[i, j] / (p[i].sum() * p[:, j].sum())))
        for i in range(2)
        for j in range(3)
        if counts[i, j]
    )
    assert mutual_information(counts) == pytest.approx(expected)
    assert mutual_information(torch.eye(3)) == pytest.approx(math.log(3))
    assert mutual_information(torch.ones(3, 4)) == pytest.approx(0, abs=1e-12)
    assert mutual_information(torch.zeros(3, 4)) == 0
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert divergence(p, q) == pytest.approx(math.log(2))
    assert divergence(p, p) == 0


def test_the_report_sees_the_signal_and_nothing_without_it(plugins):
    newborn, trained = new_model(plugins), stir(new_model(plugins))
    texts = [torch.randint(0, 64, (20,)).tolist() for _ in range(4)]
    (before,), (after,) = report(newborn, texts), report(trained, texts)
    assert before.mutual_information < 1e-9, "at birth no emotion moves anything"
    assert set(before.shift.values()) == {0.0}
    assert after.mutual_information > 0.01
    assert sum(after.load) == pytest.approx(1)
    assert after.place == "blocks.1.ffn.router"
    assert list(after.by_emotion) == list(EMOTIONS)
    plain = stir(new_model(plugins, {"num_experts": 4}))
    (layer,) = report(plain, texts)
    assert layer.mutual_information is None
    assert layer.by_emotion == {}
    assert not plain.blocks[1].ffn.router._forward_hooks, "the report leaves no trace"


def test_the_report_counts_what_the_layer_says(plugins):
    model = stir(new_model(plugins))
    ids = torch.randint(0, 64, (30,))
    (found,) = report(model, [ids.tolist()])
    metrics = model(ids[None]).metrics
    torch.testing.assert_close(torch.tensor(found.load), metrics["moe/load/1"])
    mood = torch.zeros(1, 11)
    mood[0, 3] = 1
    metrics = model(ids[None], condition={"emotion": mood}).metrics
    torch.testing.assert_close(torch.tensor(found.by_emotion[EMOTIONS[3]]), metrics["moe/load/1"])


def test_what_the_data_tell(plugins):
    """Texts of two emotions with the same words: without the signal the experts know nothing of it."""
    model = stir(new_model(plugins))
    words = torch.randint(0, 64, (20,)).tolist()
    emotions = [{"alegria": 1.0}, {"raiva": 1.0}] * 6
    (layer,) = report(model, [words] * 12, emotions)
    assert layer.observed.untold == pytest.approx(0, abs=1e-9)
    assert layer.observed.told > 0.005
    assert layer.observed.shuffled < layer.observed.told


# --- from the data to the chat ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory, plugins):
    """A small model trained on questions whose answer depends on the emotion alone."""
    folder = tmp_path_factory.mktemp("emotional")
    rows = [
        {"pergunta": f"Como foi o dia {n}?", "resposta": answer, "condition": {"emotion": {name: 1.0}}}
        for n in range(12)
        for name, answer in (("alegria", "Foi ótimo!"), ("tristeza", "Chorei muito."))
    ]
    data = folder / "dados.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    config = TrainConfig.model_validate(
        {
            "run_dir": folder / "run", "train_data": (str(data),), "vocab_size": 280, "precision": "fp32",
            "max_steps": 120, "batch_size": 4, "sequence_length": 64, "valid_every": 0, "valid_fraction": 0.0,
            "learning_rate": 0.01, "preflight": False,
            "new_model": {"preset": "mini", "dims": SIZES, "components": ["moe"], "configs": {"moe": NODE},
                          "place": {"moe": "every block"}},
        }
    )  # fmt: skip
    return train_model(config, plugins=plugins), data


def test_training_makes_the_choice_follow_the_emotion(trained):
    result, _ = trained
    manifest = json.loads((result.model_dir / "luna.json").read_text())
    assert manifest["conditions"] == {"emotion": list(EMOTIONS)}
    assert {(c["kind"], c["name"]) for c in manifest["components"]} >= {("router", "emotional"), ("ffn", "moe")}
    opened = open_model(result.model_dir)
    ids = opened.tokenizer.encode("Como foi o dia 3?")
    layers = report(opened.model, [ids])
    assert max(layer.mutual_information for layer in layers) > 0.001
    told = {name: max(layer.shift[name] for layer in layers) for name in EMOTIONS}
    assert min(told["alegria"], told["tristeza"]) > 0
    assert told["nojo"] == 0, "what no data named was not learnt"


def test_the_chat_follows_the_emotion(trained):
    result, _ = trained
    opened = open_model(result.model_dir)
    session = Session(opened.plugins, LunaGenerator(opened), steps=["generate"])
    session.options.sampling = Sampling(temperature=0, max_tokens=12)
    command = EmotionCommand()
    assert "No emotion" in command.run("", session)
    answers = {}
    for word in ("joy", "sadness=1"):
        assert "Emotion:" in command.run(word, session)
        session.clear()
        list(session.ask("Como foi o dia 3?"))
        answers[word] = session.turns[-1].answer
    assert answers["joy"] != answers["sadness=1"]
    assert session.turns[-1].notes["conditions"] == {"emotion": {"tristeza": 1.0}}
    assert command.run("", session) == "Emotion: tristeza=1"
    assert "off" in command.run("off", session)
    assert session.conditions == {}
    with pytest.raises(UsageError):
        command.run("happiness", session)
    assert command.complete("alegria=1 cur", session) == ["alegria=1 curiosidade", "alegria=1 curiosity"]
    session.close()


def test_a_model_that_reads_no_emotion_says_so():
    deaf = SimpleNamespace(generator=SimpleNamespace(conditions={}), conditions={})
    with pytest.raises(UsageError, match="no part that an emotion moves"):
        EmotionCommand().run("joy", deaf)


def test_the_verb(trained):
    from luna_plugin_moe.cli import experts

    from luna_kernel.cli.app import App

    result, data = trained
    arguments = [str(result.model_dir), "--data", str(data), "--texts", "8", "--length", "32"]
    done = CliRunner().invoke(experts, arguments, obj=App(), catch_exceptions=False)
    assert done.exit_code == 0
    assert "blocks.1.ffn.router" in done.stdout
    done = CliRunner().invoke(experts, [*arguments, "--json"], obj=App(), catch_exceptions=False)
    layers = json.loads(done.stdout)["layers"]
    assert [layer["place"] for layer in layers] == ["blocks.0.ffn.router", "blocks.1.ffn.router"]
    assert set(layers[0]["observed"]) == {"told", "untold", "shuffled"}


def test_the_verb_on_a_model_without_experts(tmp_path, plugins, trained):
    from luna_plugin_moe.cli import experts

    from luna_kernel.cli.app import App

    opened = open_model(trained[0].model_dir)
    dense = Decoder(Blueprint.from_preset("mini", plugins.registry, vocab_size=280, dims=SIZES), plugins.registry)
    save_model(tmp_path / "dense", dense, plugins=plugins, tokenizer=opened.tokenizer)
    with pytest.raises(UsageError, match="no router"):
        CliRunner().invoke(experts, [str(tmp_path / "dense")], obj=App(), catch_exceptions=False)


def test_what_a_trained_head_hears_changes_the_choice(tmp_path, plugins):
    """The head learns the labels of two kinds of text; then U is set by hand, and nobody gives an emotion: texts that
    sound glad go to expert 0, sad ones to expert 3, and not where the head is silenced."""
    words = {"alegria": "Que dia lindo, adorei!", "tristeza": "Chorei a noite toda."}
    rows = [{"text": f"{n} {text}", "condition": {"emotion_label": {name: 1.0}}} for n in range(8)
            for name, text in words.items()]  # fmt: skip
    data = tmp_path / "rotulos.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    node = {**NODE, "top_k": 1, "router": {"name": "emotional", "rank": 4, "head": True, "head_weight": 1.0}}
    config = TrainConfig.model_validate(
        {
            "run_dir": tmp_path / "run", "train_data": (str(data),), "vocab_size": 280, "precision": "fp32",
            "max_steps": 60, "batch_size": 4, "sequence_length": 32, "valid_every": 0, "valid_fraction": 0.0,
            "learning_rate": 0.01, "preflight": False, "objective": {"name": "lm"},
            "new_model": {"preset": "mini", "dims": SIZES, "components": ["moe"], "configs": {"moe": node}},
        }
    )  # fmt: skip
    opened = open_model(train_model(config, plugins=plugins).model_dir)
    model, router = opened.model, opened.model.blocks[1].ffn.router

    def share(text):
        """Of the tokens, by expert; those after the first words, which tell nothing yet."""
        ids = opened.tokenizer.encode(f"99 {text}")
        chosen = []
        hook = router.register_forward_hook(lambda _module, _inputs, routing: chosen.append(routing.experts))
        with torch.no_grad():
            model(torch.tensor([ids]))
        hook.remove()
        return torch.bincount(chosen[0][len(ids) // 2 :, 0], minlength=4) / (len(ids) - len(ids) // 2)

    with torch.no_grad():
        router.weight.zero_()
        router.mood.zero_()
        router.direct.zero_()
        router.direct[0, EMOTIONS.index("alegria")] = router.direct[3, EMOTIONS.index("tristeza")] = 1
        model.blocks[1].ffn.expert_bias.zero_()
    glad, sad = share(words["alegria"]), share(words["tristeza"])
    assert glad[0] > 0.9
    assert sad[3] > 0.9
    with torch.no_grad():
        router.head.zero_()
        router.head_bias.zero_()
    assert torch.equal(share(words["alegria"]), share(words["tristeza"])), "a head that hears nothing moves nothing"


# --- what a selection brings ------------------------------------------------------------------------------------------


def test_the_cross_entropy_alone_moves_the_router(plugins):
    model = new_model(plugins, {**NODE, "z_loss_weight": 0, "balance": "none"}).train()
    tokens = torch.randint(0, 64, (2, 12))
    output = model.token_losses(tokens[:, :-1], tokens[:, 1:], condition={"emotion": torch.rand(2, 11)})
    assert not output.losses
    output.sum_loss.backward()
    router = model.blocks[1].ffn.router
    assert router.weight.grad.abs().max() > 0
    assert router.direct.grad.abs().max() > 0


def test_it_takes_nobodys_place_unless_it_is_named():
    assert model_components(load_plugins("moe")) == ["moe"]
    assert "moe" not in model_components(load_plugins("all"))
    pytest.importorskip("luna_plugin_moc")
    assert model_components(load_plugins("moc")) == ["moc"], "moe is on because moc requires it"
    assert set(model_components(load_plugins("moc,moe"))) == {"moc", "moe"}
