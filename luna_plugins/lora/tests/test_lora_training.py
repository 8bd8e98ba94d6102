"""Adapters in the one training loop: what is trained, what is saved, and going on after a stop."""

from __future__ import annotations

import json

import pytest
import torch

from luna_kernel.base.errors import UsageError
from luna_kernel.model.checkpoint import open_model
from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.manifest import Manifest
from luna_kernel.train import run_state
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.training import train_model

from .conftest import DIALOGUES


def weights(folder):
    return open_model(folder, selection="none").model.state_dict()


def test_the_finished_model_is_a_plain_one_and_only_linear_layers_moved(train, model):
    result = train()
    old, new = weights(model), weights(result.model_dir)
    assert list(old) == list(new)
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    matrices = ("mixer.qkv.weight", "mixer.out.weight", "ffn.gate_up.weight", "ffn.down.weight")
    assert moved == {f"blocks.{n}.{name}" for n in (0, 1) for name in matrices}
    assert {part.plugin for part in Manifest.read(result.model_dir).components} == {"kernel"}


def test_each_matrix_moved_by_no_more_than_the_rank(train, model):
    old, new = weights(model), weights(train(adapter={"name": "lora", "rank": 2}).model_dir)
    for name in ("blocks.0.mixer.qkv.weight", "blocks.1.ffn.down.weight"):
        values = torch.linalg.svdvals((new[name] - old[name]).double())
        assert float(values[2]) < 1e-4 * float(values[0])


def test_it_learns(train, tmp_path):
    lines = [json.dumps({"prompt": question, "response": "Hoje não."}) for question, _ in DIALOGUES]
    data = tmp_path / "refusals.jsonl"
    data.write_text("\n".join(lines), encoding="utf-8")
    lines = (train(max_steps=40, train_data=(str(data),)).run_dir / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss/main"] for line in lines]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_optimisers_keep_moments_of_adapters_alone(train):
    result = train(checkpoint_every=5)
    (_, folder), *_ = run_state.list_checkpoints(result.run_dir)
    checkpoint = run_state.load_checkpoint(folder)
    moments = {key.split("/")[1] for key in checkpoint.optimizer if not key.startswith("rng")}
    adapters = [name for name in checkpoint.model if name.endswith((".a", ".b"))]
    assert len(moments) == len(adapters) == 16


def test_the_first_loss_is_that_of_the_model_as_it_was(train, model, tmp_path):
    def first(result):
        return json.loads((result.run_dir / "metrics.jsonl").read_text().splitlines()[0])["loss/main"]

    assert first(train(max_steps=1)) == first(train(max_steps=1, adapter=None, run_dir=tmp_path / "plain"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_gives_the_same_bits(train, tmp_path, optimizer):
    schedule = {"name": "wsd", "warmup_steps": 0, "decay_share": 0}
    fields = {"optimizer": {"name": optimizer}, "schedule": schedule, "checkpoint_every": 3}
    whole = train(run_dir=tmp_path / "whole", **fields)
    train(max_steps=4, **fields)
    resumed = train(**fields)
    assert resumed.resumed_from == 4
    expected, found = weights(whole.model_dir), weights(resumed.model_dir)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_that_died_before_its_first_checkpoint_starts_from_the_model(train, tmp_path):
    whole = train(run_dir=tmp_path / "whole", max_steps=3)
    train(max_steps=3)
    (_, folder), *_ = run_state.list_checkpoints(tmp_path / "run")
    for path in sorted(folder.iterdir()):
        path.unlink()
    folder.rmdir()
    again = train(max_steps=3)
    assert again.resumed_from is None
    expected, found = weights(whole.model_dir), weights(again.model_dir)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_cannot_work_is_said(train, tmp_path):
    with pytest.raises(UsageError, match="lora"):
        train(adapter={"name": "lorra"})
    with pytest.raises(UsageError, match="rank"):
        train(adapter={"name": "lora", "rank": 0}, run_dir=tmp_path / "zero")
    train(max_steps=1, run_dir=tmp_path / "other")
    with pytest.raises(UsageError, match="adapter"):
        train(max_steps=2, run_dir=tmp_path / "other", adapter={"name": "lora", "rank": 2})


def test_blocks_without_linear_layers_are_refused(corpus, tmp_path):
    pytest.importorskip("luna_plugin_ssm")
    pytest.importorskip("luna_plugin_moc")
    new = {"preset": "mini", "components": ("ssm", "moc"), "place": {"ssm": "every block", "moc": "every block"}}
    config = {
        "run_dir": tmp_path / "run", "train_data": (str(corpus),), "valid_fraction": 0, "new_model": new,
        "vocab_size": 300, "max_steps": 1, "adapter": {"name": "lora"},
    }  # fmt: skip
    with pytest.raises(UsageError, match="no linear layer"):
        train_model(TrainConfig.model_validate(config), plugins=load_plugins("lora,ssm,moc"))
