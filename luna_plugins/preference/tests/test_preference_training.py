"""The objectives in the one training loop, on a tiny model that was trained before."""

from __future__ import annotations

import json
import math

import pytest
import torch

from luna_kernel.base.errors import UsageError
from luna_kernel.model.checkpoint import open_model


def log_of(result):
    return [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]


def weights_of(result):
    return open_model(result.model_dir).model.state_dict()


def test_the_first_dpo_loss_is_ln_2(train, pairs):
    first = log_of(train(pairs, "dpo", max_steps=1))[0]
    assert first["loss/main"] == pytest.approx(math.log(2), rel=2e-7, abs=0)


def test_the_kto_loss_of_equal_models_is_a_half(train, judged):
    first = log_of(train(judged, "kto", max_steps=1))[0]
    assert first["loss/main"] == pytest.approx(0.5, abs=1e-6)


def test_dpo_prefers_the_better_answers(train, pairs):
    log = log_of(train(pairs, {"name": "dpo", "beta": 0.2}, max_steps=30))
    assert log[-1]["loss/main"] < 0.4
    assert log[-1]["dpo/accuracy"] == 1.0
    assert log[-1]["dpo/margin"] > 0.5


def test_kto_raises_liked_answers_above_disliked_ones(train, judged):
    log = log_of(train(judged, {"name": "kto", "beta": 0.2}, max_steps=30))
    assert log[-1]["loss/main"] < 0.45
    assert log[-1]["kto/liked_reward"] > log[-1]["kto/disliked_reward"] + 0.2


@pytest.mark.parametrize("objective", ["dpo", "kto"])
def test_a_resumed_run_gives_the_same_bits(train, pairs, judged, corpus, tmp_path, objective):
    data = pairs if objective == "dpo" else judged
    replay = ({"name": "replay", "data": [str(corpus)], "every": 2, "batch_size": 1},)
    schedule = {"name": "wsd", "warmup_steps": 0, "decay_share": 0}
    fields = {"callbacks": replay, "checkpoint_every": 2, "schedule": schedule}
    whole = train(data, objective, run_dir=tmp_path / "whole", **fields)
    train(data, objective, max_steps=5, **fields)
    resumed = train(data, objective, **fields)
    assert resumed.resumed_from == 5
    expected, found = weights_of(whole), weights_of(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_replay_keeps_what_was_known(train, pairs, corpus, model, tmp_path):
    """Strong DPO alone spoils the old dialogues more than DPO with replay does."""
    replay = ({"name": "replay", "data": [str(corpus)]},)
    strong = {"name": "dpo", "beta": 0.01}
    fields = {"max_steps": 25, "learning_rate": 2e-3}
    alone = train(pairs, strong, run_dir=tmp_path / "alone", **fields)
    mixed = train(pairs, strong, run_dir=tmp_path / "mixed", callbacks=replay, **fields)
    losses = {}
    for name, result in (("alone", alone), ("mixed", mixed)):
        start = train(corpus, "sft", run_dir=tmp_path / f"{name}-eval", model=result.model_dir, max_steps=1)
        losses[name] = log_of(start)[0]["loss/main"]
    assert losses["mixed"] < losses["alone"]


def test_the_reference_is_computed_once(train, pairs, tmp_path):
    result = train(pairs, "dpo", max_steps=2)
    path = result.run_dir / "reference.json"
    content = json.loads(path.read_text())
    assert len(content["values"]) == 6
    stamp = path.stat().st_mtime_ns
    train(pairs, "dpo", max_steps=4)
    assert path.stat().st_mtime_ns == stamp


def test_what_cannot_work_is_said(train, pairs, corpus, tmp_path):
    with pytest.raises(UsageError, match="starts from none"):
        train(pairs, "dpo", model=None, new_model={"preset": "mini"}, sequence_length=64)
    with pytest.raises(UsageError, match="longer than a row"):
        train(pairs, "dpo", sequence_length=24, run_dir=tmp_path / "short")
    with pytest.raises(UsageError):  # no pairs in it
        train(corpus, "dpo", run_dir=tmp_path / "none")
