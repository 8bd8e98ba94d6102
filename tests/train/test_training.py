"""`train_model` from files to a model folder."""

import json
import multiprocessing
import re

import pytest
import torch

from luna_kernel.base.errors import UsageError
from luna_kernel.data.dialogue import DialogueTemplate
from luna_kernel.model.checkpoint import open_model
from luna_kernel.train import run_state
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.corpus import is_held_out, split_tail
from luna_kernel.train.training import train_model

NEW = {
    "preset": "mini",
    "dims": {"d_model": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "ffn_dim": 16},
}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "dados"
    folder.mkdir()
    rows = [{"pergunta": f"Quanto é {n} mais {n}?", "resposta": f"{n} mais {n} são {2 * n}, claro."} for n in range(60)]
    (folder / "contas.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (folder / "conto.txt").write_text("Era uma vez um gato que dormia no telhado. " * 20, encoding="utf-8")
    return folder


@pytest.fixture
def config(tmp_path, data):
    def make(name="run", **fields):
        given = {"run_dir": tmp_path / name, "train_data": (str(data),), "vocab_size": 300, "new_model": NEW}
        given |= {"max_steps": 6, "batch_size": 2, "sequence_length": 32, "checkpoint_every": 2, "valid_every": 3}
        return TrainConfig.model_validate({"precision": "fp32", "valid_fraction": 0.2, **given, **fields})

    return make


class Listening:
    """A console that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def start_progress(self, title):
        pass

    def progress(self, share, text, seconds_left):
        self.lines.append(text)

    def end_progress(self):
        pass


def test_from_files_to_a_model_that_opens(config, plugins):
    console = Listening()
    result = train_model(config(), plugins=plugins, console=console)
    assert (result.reason, result.steps, result.resumed_from) == ("finished", 6, None)
    opened = open_model(result.model_dir)
    assert opened.tokenizer.decode(opened.tokenizer.encode("gato")) == "gato"
    assert opened.manifest.training["steps"] == 6
    text = "\n".join(console.lines)
    assert "⟦" in text
    samples, held_out = map(int, re.search(r"(\d+) training samples, .* (\d+) samples held out", text).groups())
    assert samples + held_out == 61
    assert held_out
    assert "Share of tokens" in text
    assert result.metrics["valid/bits_per_byte"] > 0
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"loss/main", "loss/aux", "perplexity", "tokens_per_second", "lr", "grad_norm"} <= set(lines[0])
    json.dumps(result.to_json())


@pytest.mark.parametrize("chosen", ["blocks", 2])
def test_activation_checkpointing_trains_the_same_model(config, plugins, chosen, monkeypatch):
    from luna_kernel.model import decoder

    runs = []
    whole = decoder.run_block
    monkeypatch.setattr(decoder, "run_block", lambda *given: runs.append(1) or whole(*given))
    two = {**NEW, "dims": {**NEW["dims"], "num_layers": 2}}
    plain = train_model(config("plain", new_model=two), plugins=plugins)
    assert not runs
    found = train_model(config("other", new_model=two, activation_checkpointing=chosen), plugins=plugins)
    assert len(runs) == 6 * (2 if chosen == "blocks" else 1)
    expected = open_model(plain.model_dir).model.state_dict()
    weights = open_model(found.model_dir).model.state_dict()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_activation_checkpointing_has_few_values(config):
    assert [config(activation_checkpointing=x).recompute_every for x in ("none", "blocks", 3)] == [0, 1, 3]
    for bad in ({"activation_checkpointing": 0}, {"activation_checkpointing": "some"},
                {"activation_checkpointing": "blocks", "compile": True}):  # fmt: skip
        with pytest.raises(ValueError, match="activation_checkpointing"):
            config(**bad)


def test_started_again_it_goes_on_and_says_so(config, plugins):
    train_model(config(), plugins=plugins)
    console = Listening()
    result = train_model(config(max_steps=9), plugins=plugins, console=console)
    assert (result.steps, result.resumed_from) == (9, 6)
    assert any("step 6" in line for line in console.lines)
    assert not any("Share of tokens" in line for line in console.lines)
    again = train_model(config(max_steps=9), plugins=plugins)
    assert (again.reason, again.steps, again.resumed_from) == ("finished", 9, 9)


def test_the_best_model_is_kept(config, plugins, monkeypatch):
    from luna_kernel.train import loop

    values = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: {"valid/bits_per_byte": next(values), "valid/loss": 1.0})
    result = train_model(config(valid_every=2, checkpoint_every=0), plugins=plugins)
    assert (result.best_step, result.steps) == (4, 6)
    best = run_state.load_checkpoint(run_state.checkpoint_folder(result.run_dir, 4)).model
    opened = open_model(result.model_dir).model.state_dict()
    assert all((opened[name] == best[name]).all() for name in best)


def test_another_configuration_or_other_data_are_refused(config, plugins, data):
    train_model(config(), plugins=plugins)
    with pytest.raises(UsageError, match=r"learning_rate: 0.001 → 0.1"):
        train_model(config(learning_rate=0.1), plugins=plugins)
    (data / "novo.txt").write_text("Mais um texto, que antes não havia. " * 9)
    with pytest.raises(UsageError, match="other data"):
        train_model(config(max_steps=9), plugins=plugins)


def test_going_on_from_a_model(config, plugins):
    first = train_model(config(), plugins=plugins)
    second = train_model(config("outra", model=first.model_dir, max_steps=2), plugins=plugins)
    assert second.steps == 2
    assert open_model(second.model_dir).tokenizer.to_json() == open_model(first.model_dir).tokenizer.to_json()


def hold(path, ready, done):
    from luna_kernel.base import durable

    with durable.lock(path):
        ready.set()
        done.wait(30)


def test_a_second_trainer_is_refused(config, plugins):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    made = config()
    other = context.Process(target=hold, args=(str(made.run_dir / "lock"), ready, done))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(UsageError, match=str(other.pid)):
            train_model(made, plugins=plugins)
    finally:
        done.set()
        other.join(30)


def test_a_bad_line_is_named_or_skipped_and_counted(config, plugins, data):
    with (data / "contas.jsonl").open("a") as file:
        file.write("\n{torta\n")
    with pytest.raises(UsageError, match=r"contas\.jsonl:61"):
        train_model(config(), plugins=plugins)
    console = Listening()
    train_model(config(skip_bad=True), plugins=plugins, console=console)
    assert any("Passed over: 1" in line and "contas.jsonl:61" in line for line in console.lines)


def test_a_kept_token_store_says_what_it_passed_over_and_serves_no_run_that_passes_nothing_over(config, plugins, data):
    """Without the store of the first run the second would read the files again; with it, it must say the same."""
    with (data / "contas.jsonl").open("a") as file:
        file.write("\n{torta\n[]\n")
    tokenizer = config("first", skip_bad=True, max_steps=1)
    train_model(tokenizer, plugins=plugins)
    fixed = {"tokenizer": tokenizer.run_dir / "tokenizer", "max_steps": 1}
    fresh, kept = Listening(), Listening()
    train_model(config("second", skip_bad=True, **fixed), plugins=plugins, console=fresh)
    train_model(config("third", skip_bad=True, **fixed), plugins=plugins, console=kept)
    said = [[line for line in console.lines if "Passed over: 2" in line] for console in (fresh, kept)]
    assert said[0] == said[1] != []
    with pytest.raises(UsageError, match=r"contas\.jsonl:61[^\n]*\n[^\n]*contas\.jsonl:62"):
        train_model(config("fourth", **fixed), plugins=plugins)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"train_data": ("nada/",)}, "does not exist"),
        ({"objective": {"name": "stf"}}, "sft"),
        ({"optimizer": {"name": "adamw", "beta3": 1}}, "beta"),
        ({"sequence_length": 4096}, "4096"),
        ({"device": "cuda"}, "cuda"),
        ({"new_model": {**NEW, "preset": "enorme"}}, "enorme"),
    ],
)
def test_what_cannot_work_is_said(config, plugins, fields, text):
    with pytest.raises(UsageError, match=text):
        train_model(config(**fields), plugins=plugins)


def test_data_without_anything_to_learn(config, plugins, tmp_path):
    path = tmp_path / "u.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "só pergunto"}]}\n')
    with pytest.raises(UsageError, match="nothing to learn"):
        train_model(config(train_data=(str(path),), valid_fraction=0), plugins=plugins)


def test_stores_are_built_once(config, plugins, tmp_path):
    train_model(config(), plugins=plugins)
    stores = sorted((tmp_path / "home" / "cache" / "stores").iterdir())
    times = [(path / "store.json").stat().st_mtime_ns for path in stores]
    assert len(stores) == 2
    train_model(config("outra"), plugins=plugins)
    assert sorted((tmp_path / "home" / "cache" / "stores").iterdir()) == stores
    assert [(path / "store.json").stat().st_mtime_ns for path in stores] == times


def test_sft_masks_and_lm_does_not(config, plugins):
    for objective, share in (("sft", 0.6), ("lm", 0.99)):
        console = Listening()
        train_model(config(objective, objective={"name": objective}), plugins=plugins, console=console)
        line = next(line for line in console.lines if "Share of tokens" in line)
        assert (float(line.split()[-1].rstrip("%")) < 95) == (share < 0.95)


def test_hooks_are_told(config, plugins, monkeypatch):
    told = []
    original = plugins.tell

    def tell(hook, **arguments):
        told.append(hook)
        return original(hook, **arguments)

    monkeypatch.setattr(plugins, "tell", tell)
    train_model(config(), plugins=plugins)
    names = [hook.removeprefix("luna_train_") for hook in told if hook.startswith("luna_train_")]
    assert names[0] == "start"
    assert names[-1] == "end"
    assert names.count("step_end") == 6
    assert names.count("eval_end") == 2
    assert names.count("checkpoint_save") == names.count("checkpoint_saved") >= 3


def test_split_keeps_equal_records_together_and_holds_out_the_share():
    from luna_kernel.contracts.data import Record

    records = [Record(text=f"texto {n // 2}") for n in range(2000)]
    out = [is_held_out(record, 0.1, 0) for record in records]
    assert out[::2] == out[1::2]
    assert 60 < sum(out) / 2 < 140


def test_the_tail_of_a_lone_text_is_held_out():
    from luna_kernel.contracts.data import Record

    text = "".join(f"Linha número {n} de um texto.\n" for n in range(200))
    train, valid = split_tail([Record(text=text)], 0.1)
    assert train[0].text + valid[0].text == text
    assert train[0].text.endswith("\n")
    assert 0.08 < len(valid[0].text) / len(text) < 0.15
    assert split_tail([Record(text="curto")], 0.1)[1] == []


def test_masks_of_a_trained_store_decode(config, plugins, tmp_path):
    """Golden: what the store on disk says is learnt, of the first dialogue."""
    from luna_kernel.data.token_store import TokenStore

    result = train_model(config(valid_fraction=0), plugins=plugins)
    template = DialogueTemplate(open_model(result.model_dir).tokenizer)
    (folder,) = (tmp_path / "home" / "cache" / "stores").iterdir()
    ids, mask = TokenStore.open(folder).sample(0)
    shown = template.show(ids.tolist(), mask.tolist())
    assert shown == "<|user|>Quanto é 0 mais 0?<|end|><|assistant|>⟦0 mais 0 são 0, claro.<|end|>⟧"


def test_lightened(config):
    light = config(batch_size=8, accumulate=2).lightened()
    assert (light.batch_size, light.accumulate, light.new_model.preset) == (2, 8, "mini")
    assert config(batch_size=1).lightened().batch_size == 1
    assert config(batch_size=6).lightened().batch_size * config(batch_size=6).lightened().accumulate == 6


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_learns_what_a_plain_one_does(config, plugins):
    losses = {}
    for name, fields in {"plain": {}, "compiled": {"compile": True}}.items():
        done = train_model(config(name, checkpoint_every=0, log_every=1, **fields), plugins=plugins)
        lines = (config(name).run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses[name] = [row["loss/main"] for row in map(json.loads, lines) if "loss/main" in row]
        assert done is not None
    assert losses["plain"]
    assert losses["compiled"] == pytest.approx(losses["plain"], abs=1e-3)
