"""Conditions of the data reach the layer that reads them, are saved with the model, and come back in the chat."""

import json

import pytest
import torch

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.chat.session import Session
from luna_kernel.contracts.chat import Sampling, Turn
from luna_kernel.model.checkpoint import open_model
from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.manifest import Manifest
from luna_kernel.train import run_state
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

PLUGIN = '''"""A plugin in a file: a modulator that adds a vector of its own for each domain."""

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from luna_kernel import hookimpl
from luna_kernel.contracts.layers import Modulator

LUNA_API = 1


@hookimpl
def luna_add_layers(add):
    add("modulator", "tone", f"{__name__}:Tone", config=f"{__name__}:ToneConfig", place="ffn of every block")


class ToneConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    room: int = 3


class Tone(Modulator):
    def __init__(self, config, dims):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.room, dims.d_model))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.weight)

    def conditions(self):
        return {"domain": self.config.room}

    def forward(self, x, y, ctx):
        domain = ctx.condition.get("domain")
        if domain is None:
            return y
        tone = domain @ self.weight
        return y + (tone if tone.dim() == 3 else tone[:, None])
'''

NEW = {
    "preset": "mini",
    "dims": {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "ffn_dim": 16},
}


@pytest.fixture
def tone_file(tmp_path):
    path = tmp_path / "tone_plugin.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path):
    rows = [
        {"pergunta": f"O que é {n}?", "resposta": answer, "condition": {"domain": name, "mood": "calmo"}}
        for n in range(12)
        for name, answer in (("saude", "Tome água."), ("direito", "Leia a lei."))
    ]
    path = tmp_path / "dados.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path, data):
    def make(name="run", **fields):
        given = {"run_dir": tmp_path / name, "train_data": (str(data),), "vocab_size": 280, "precision": "fp32"}
        given |= {"max_steps": 4, "batch_size": 2, "sequence_length": 48, "valid_every": 0, "valid_fraction": 0.0}
        given |= {"new_model": {**NEW, "components": ["tone"]}}
        return TrainConfig.model_validate({**given, **fields})

    return make


class Listening:
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def start_progress(self, title):
        pass

    def progress(self, share, text, seconds_left):
        pass

    def end_progress(self):
        pass


def weights_of(result):
    folder = run_state.checkpoint_folder(result.run_dir, result.steps)
    return run_state.load_checkpoint(folder).model


def test_from_data_to_the_chat(config, tone_file):
    plugins, console = load_plugins(f"none,{tone_file}"), Listening()
    result = train_model(config(max_steps=40, learning_rate=0.03), plugins=plugins, console=console)
    text = "\n".join(console.lines)
    assert "'domain' of the data: direito, saude" in text
    assert text.count("'mood', which no component of the model reads") == 1
    weight = weights_of(result)["blocks.0.modulators.0.weight"]
    assert weight[:2].abs().min() > 0
    assert not weight[2].any(), "a dimension without a name was trained"

    assert json.loads((result.model_dir / "luna.json").read_text())["conditions"] == {"domain": ["direito", "saude"]}
    selection = f"none,{tone_file}"
    generator = LunaGenerator(open_model(result.model_dir, selection=selection))
    assert generator.conditions == {"domain": ("direito", "saude")}

    session = Session(plugins, generator, steps=["generate"])
    with pytest.raises(UsageError, match="Did you mean 'saude'"):
        session.set_condition("domain", "saúde")
    with pytest.raises(UsageError, match="Did you mean 'domain'"):
        session.set_condition("domian", "saude")
    session.options.sampling = Sampling(temperature=0, max_tokens=8)
    answers = {}
    for name in ("direito", "saude"):
        session.set_condition("domain", name)
        list(session.ask("O que é 3?"))
        answers[name] = session.turns[-1].answer
        assert session.turns[-1].notes["conditions"] == {"domain": name}
    assert answers["direito"] != answers["saude"]
    session.set_condition("domain", None)
    assert session.conditions == {}
    session.close()


def test_another_condition_forgets_what_was_read(config, tone_file):
    plugins = load_plugins(f"none,{tone_file}")
    result = train_model(config(max_steps=20, learning_rate=0.03), plugins=plugins)

    def answered(generator, **conditions):
        turn = Turn(query="O que é 5?", sampling=Sampling(temperature=0, max_tokens=1), conditions=conditions)
        list(generator.generate(turn, lambda: False))
        return turn

    def opened():
        return LunaGenerator(open_model(result.model_dir, selection=f"none,{tone_file}"))

    def logits(generator):
        """What the kept state gives for one more token."""
        state, rest, _ = generator._continue([*generator._seen, 7])
        output = generator.model(torch.tensor([rest]), state=state, condition=generator._condition())
        return output.logits.detach()

    generator, fresh = opened(), opened()
    answered(generator, domain="saude")
    seen = list(generator._seen)
    answered(generator, domain="direito")
    answered(fresh, domain="direito")
    assert generator._seen == seen, "the prompt is the same, so only the condition can make the state another"
    assert torch.equal(logits(generator), logits(fresh))
    generator._seen = seen
    generator._tell(Turn(query="x", conditions={"domain": "direito"}))
    assert generator._seen == seen
    generator._tell(Turn(query="x", conditions={"domain": {"direito": 0.5}}))
    assert generator._seen == []
    with pytest.raises(UsageError, match="does not read"):
        generator._tell(Turn(query="x", conditions={"mood": "calmo"}))


def test_resume_is_exact(config, tone_file):
    plugins = load_plugins(f"none,{tone_file}")
    fields = {"schedule": {"name": "wsd", "warmup_steps": 0, "decay_share": 0.0}}
    whole = train_model(config("whole", max_steps=6, **fields), plugins=plugins)
    train_model(config("cut", max_steps=3, **fields), plugins=plugins)
    assert json.loads((config("cut").run_dir / "run.json").read_text())["conditions"] == {
        "domain": ["direito", "saude"]
    }
    cut = train_model(config("cut", max_steps=6, **fields), plugins=plugins)
    assert cut.resumed_from == 3
    one, other = weights_of(whole), weights_of(cut)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_a_reader_they_are_ignored_and_change_nothing(config, tone_file, data, tmp_path):
    none = load_plugins("none")
    plain = tmp_path / "sem.jsonl"
    rows = [json.loads(text) for text in data.read_text(encoding="utf-8").splitlines()]
    plain.write_text(
        "\n".join(json.dumps({k: v for k, v in row.items() if k != "condition"}, ensure_ascii=False) for row in rows),
        encoding="utf-8",
    )
    console = Listening()
    one = train_model(config("a", new_model=NEW), plugins=none, console=console)
    other = train_model(config("b", new_model=NEW, train_data=(str(plain),)), plugins=none)
    assert sum("which no component of the model reads" in line for line in console.lines) == 2
    mine, theirs = weights_of(one), weights_of(other)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert "conditions" not in json.loads((one.model_dir / "luna.json").read_text())
    console = Listening()
    train_model(config("c", train_data=(str(plain),)), plugins=load_plugins(f"none,{tone_file}"), console=console)
    assert sum("it stays 0" in line for line in console.lines) == 1


def test_a_trained_model_keeps_its_names_and_takes_new_ones_while_there_is_room(config, tone_file, tmp_path):
    plugins = load_plugins(f"none,{tone_file}")
    first = train_model(config(), plugins=plugins)
    more = tmp_path / "mais.jsonl"
    row = {"pergunta": "E a arte?", "resposta": "É bela.", "condition": {"domain": "arte"}}
    more.write_text("\n".join(json.dumps({**row, "pergunta": f"Arte {n}?"}, ensure_ascii=False) for n in range(9)))
    second = train_model(
        config("more", model=first.model_dir, train_data=(str(more),), new_model={"preset": "mini"}), plugins=plugins
    )
    assert Manifest.read(second.model_dir).conditions == {"domain": ("direito", "saude", "arte")}
    more.write_text(more.read_text().replace("arte", "moda"))
    with pytest.raises(UsageError, match="room for 3"):
        train_model(
            config("full", model=second.model_dir, train_data=(str(more),), new_model={"preset": "mini"}),
            plugins=plugins,
        )


def test_two_widths_of_one_condition_are_refused(config, tone_file):
    other = tone_file.with_name("other_tone.py")
    other.write_text(PLUGIN.replace('"tone"', '"other"').replace("room: int = 3", "room: int = 4"), encoding="utf-8")
    plugins = load_plugins(f"none,{tone_file},{other}")
    new = {**NEW, "components": ["tone", "other"]}
    with pytest.raises(UsageError, match=r"blocks\.0\.modulators\.0 wants 3, blocks\.0\.modulators\.1 wants 4"):
        train_model(config(new_model=new), plugins=plugins)


@pytest.mark.parametrize("value", [[], {"domain": "saude"}, {"domain": ["a", "a"]}, {"domain": ["a\n"]}, {"d": [1]}])
def test_a_damaged_vocabulary_is_found(value):
    with pytest.raises(IntegrityError, match="conditions"):
        Manifest.from_json({"format": 1, "blueprint": {}, "components": [], "conditions": value})
