"""The loop: what a step computes, and what it refuses."""

import json
import math
import random

import numpy as np
import pytest
import torch

from luna_kernel.base.errors import IntegrityError, LunaError, StorageError, UsageError
from luna_kernel.contracts.training import LossSum
from luna_kernel.data.batches import Batches
from luna_kernel.data.token_store import Sample, TokenStore
from luna_kernel.train import run_state
from luna_kernel.train.callbacks import ConsoleProgress, EarlyStopping, JsonlTracker
from luna_kernel.train.console import PlainConsole
from luna_kernel.train.engine import Engine
from luna_kernel.train.evaluation import evaluate
from luna_kernel.train.loop import train
from luna_kernel.train.objectives import LanguageModeling


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns(make_run, tmp_path):
    run = make_run(tmp_path, objective=LanguageModeling(), max_steps=60, learning_rate=1e-2, checkpoint_every=0)
    first = run.train_step()["loss/main"]
    assert abs(first - math.log(48)) < 0.3
    assert train(run) == "finished"
    assert run.metrics["loss/main"] < 0.5 * first
    assert run.metrics["perplexity"] == pytest.approx(math.exp(run.metrics["loss/main"]))
    assert run.step == 60


@pytest.mark.parametrize("parts", [(4, 1), (2, 2), (1, 4), (3, 1)])
def test_micro_batches_do_not_change_the_step(make_run, tmp_path, parts):
    """Sums over the valid tokens of the whole step, though micro-batches hold different numbers of them."""
    size, times = parts
    run = make_run(tmp_path, objective=LanguageModeling(), batch_size=size, accumulate=times, grad_clip=0)
    run.batches = Batches(run.batches.store, 4, 24)
    whole = make_run(tmp_path, objective=LanguageModeling(), batch_size=4, accumulate=1, grad_clip=0)
    for _ in range(3):
        a, b = run.train_step(), whole.train_step()
        assert a["loss/main"] == pytest.approx(b["loss/main"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


@torch.no_grad()
def test_packed_loss_is_unpacked_loss(make_model, store):
    model, objective = make_model(3).eval(), LanguageModeling()
    engine = Engine(torch.device("cpu"), None)
    lengths = np.ones(48, dtype=np.int64)
    packed = evaluate(model, objective, Batches(store, 4, 48, shuffle=False), engine, lengths)
    total, tokens = 0.0, 0
    for index in range(store.num_samples):
        ids, mask = store.sample(index)
        row = torch.from_numpy(ids)
        logits = model(row[None, :-1]).logits[0]
        losses = torch.nn.functional.cross_entropy(logits.double(), row[1:], reduction="none")
        on = torch.from_numpy(mask[1:])
        total, tokens = total + float(losses[on].sum()), tokens + int(on.sum())
    assert packed["valid/tokens"] == tokens
    assert packed["valid/loss"] == pytest.approx(total / tokens, abs=1e-5)
    assert packed["valid/bits_per_byte"] == pytest.approx(packed["valid/loss"] / math.log(2))


def test_layers_losses_are_weighted_by_tokens(make_run, tmp_path):
    class WithAux(LanguageModeling):
        def loss(self, model, batch):
            output = super().loss(model, batch)
            scale = model.embedding.weight.square().mean()
            load = torch.tensor([0.25, 0.75])
            return LossSum(output.total, output.num_tokens, {"a/b": scale, "a/c": 2 * scale}, {"a/load/1": load})

    run = make_run(tmp_path, objective=WithAux(), log_every=1)
    scale = float(run.model.embedding.weight.detach().square().mean())
    metrics = run.train_step()
    assert metrics["loss/aux"] == pytest.approx(3 * scale, rel=1e-5)
    assert metrics["a/b"] == pytest.approx(scale, rel=1e-5)
    assert (metrics["a/load/1/0"], metrics["a/load/1/1"]) == (0.25, 0.75)


def test_layers_metrics_reach_evaluation(make_model, store):
    class WithMetrics(LanguageModeling):
        def loss(self, model, batch):
            output = super().loss(model, batch)
            seen = {"a/fit/1": torch.tensor(float(output.num_tokens)), "a/load/1": torch.tensor([0.25, 0.75])}
            return LossSum(output.total, output.num_tokens, {}, {} if model.training else seen)

    batches = Batches(store, 4, 48, shuffle=False)
    engine = Engine(torch.device("cpu"), None)
    found = evaluate(make_model(3).train(), WithMetrics(), batches, engine, np.ones(48, dtype=np.int64))
    sizes = [batch.num_targets for batch in batches.one_pass(None)]
    assert len(set(sizes)) > 1
    assert found["valid/a/fit/1"] == pytest.approx(sum(n * n for n in sizes) / sum(sizes))
    assert (found["valid/a/load/1/0"], found["valid/a/load/1/1"]) == (0.25, 0.75)


def test_the_layers_losses_reach_the_gradient(make_run, tmp_path):
    class OnlyAux(LanguageModeling):
        def loss(self, model, batch):
            output = super().loss(model, batch)
            return LossSum(0 * output.total, output.num_tokens, {"x": model.norm.weight.sum()})

    run = make_run(tmp_path, objective=OnlyAux(), grad_clip=0)
    seen = []
    run._update = lambda rate, finite: seen.append(run.model.norm.weight.grad.clone()) or 0.0
    run.train_step()
    assert torch.allclose(seen[0], torch.ones(16))


class Poison(LanguageModeling):
    """Not finite at some calls, in the loss or only in the gradient."""

    def __init__(self, calls, how):
        super().__init__()
        self.calls, self.how, self.count = set(calls), how, 0

    def loss(self, model, batch):
        output = super().loss(model, batch)
        self.count += 1
        if self.count in self.calls:
            bad = torch.tensor(math.nan if self.how == "nan" else math.inf)
            if self.how == "gradient":
                zero = model.norm.weight[0] - model.norm.weight[0].detach()
                output.total = output.total + zero.abs().sqrt()  # 0, with an infinite slope
            else:
                output.total = output.total * bad
        return output


@pytest.mark.parametrize("how", ["nan", "inf", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_counted(make_run, tmp_path, how):
    run = make_run(tmp_path, objective=Poison({3}, how), accumulate=1)
    run.train_step(), run.train_step()
    before, position = weights(run.model), run.position
    metrics = run.train_step()
    assert same(before, weights(run.model))
    assert (metrics["skipped"], run.skipped_in_a_row, run.step) == (1, 1, 3)
    assert run.position > position
    run.train_step()
    assert (run.skipped, run.skipped_in_a_row) == (1, 0)
    assert not same(before, weights(run.model))
    assert all(torch.isfinite(tensor).all() for tensor in run.model.state_dict().values())


def test_many_in_a_row_stop_with_the_last_good_checkpoint(make_run, tmp_path):
    run = make_run(tmp_path, objective=Poison(range(8, 99), "nan"), accumulate=1, max_bad_steps=3)
    with pytest.raises(LunaError, match="3 times"):
        train(run)
    checkpoint, _ = run_state.newest_checkpoint(tmp_path)
    assert checkpoint.state["step"] <= 9
    assert all(torch.isfinite(t).all() for t in checkpoint.model.values() if t.is_floating_point())


def test_a_broken_model_is_never_saved(make_run, tmp_path):
    run = make_run(tmp_path)
    run.train_step()
    with torch.no_grad():
        run.model.norm.weight[0] = math.nan
    with pytest.raises(LunaError, match=r"norm\.weight"):
        run.save()
    assert run_state.list_checkpoints(tmp_path) == []


def test_after_step_is_called_once_per_update(make_run, make_model, tmp_path):
    model = make_model()
    calls = []
    model.blocks[0].ffn.after_step = lambda: calls.append(torch.is_grad_enabled())
    run = make_run(tmp_path, model=model, objective=Poison({2}, "nan"), accumulate=1)
    for _ in range(4):
        run.train_step()
    assert calls == [False] * 3


def test_gradients_are_clipped(make_run, tmp_path):
    run = make_run(tmp_path, grad_clip=1e-3)
    norms = []
    for optimizer in run.optimizers:
        optimizer.register_step_pre_hook(
            lambda o, *_: norms.append(
                math.sqrt(sum(float(p.grad.square().sum()) for g in o.param_groups for p in g["params"]))
            )
        )
    assert run.train_step()["grad_norm"] > 1e-3
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)


def test_each_group_keeps_its_own_rate(make_run, make_model, tmp_path):
    model = make_model()
    model.blocks[0].ffn.optimizer_hints = lambda: {"down.weight": {"lr_scale": 0.1, "weight_decay": False}}
    run = make_run(tmp_path, model=model, schedule={"name": "wsd", "warmup_steps": 3}, learning_rate=0.01)
    for step in range(4):
        run.train_step()
        multiplier = run.schedule.multiplier(step, step / 12)
        rates = [[g["lr"] for g in o.param_groups] for o in run.optimizers]
        assert rates == [[pytest.approx(own * multiplier) for own in group] for group in run.own_rates]
    assert sorted({rate for group in run.own_rates for rate in group}) == pytest.approx([0.001, 0.01])


def test_early_stopping_and_the_best_checkpoint(make_run, tmp_path):
    stopping = EarlyStopping(2)
    run = make_run(
        tmp_path, callbacks=[stopping], valid=True, valid_every=1, max_steps=50, keep_last=1, checkpoint_every=1
    )
    values = iter([3.0, 2.0, 2.5, 2.4, 1.0])

    def measured(*args, **kwargs):
        return {"valid/bits_per_byte": next(values), "valid/loss": 1.0}

    from luna_kernel.train import loop

    original, loop.evaluate = loop.evaluate, measured
    try:
        assert train(run) == "no_better"
    finally:
        loop.evaluate = original
    assert (run.step, run.best.step, run.best.value) == (4, 2, 2.0)
    assert [step for step, _ in run_state.list_checkpoints(tmp_path)] == [4, 2]


def test_budget_is_whatever_ends_first(make_run, tmp_path):
    run = make_run(tmp_path, max_steps=10_000, epochs=2, checkpoint_every=0, objective=LanguageModeling())
    assert train(run) == "finished"
    assert run.epoch >= 2
    assert run.epoch < 2.5
    run = make_run(tmp_path / "b", max_steps=None, epochs=None, max_seconds=0.3, checkpoint_every=0)
    train(run)
    assert 0.3 <= run.elapsed < 5


def test_metrics_file_goes_on_after_a_resume(make_run, tmp_path):
    run = make_run(
        tmp_path, callbacks=[JsonlTracker()], log_every=1, max_steps=8, checkpoint_every=5, valid=True, valid_every=4
    )
    train(run)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["step"] for line in lines if "valid/bits_per_byte" in line] == [4, 8]
    again = make_run(tmp_path, callbacks=[JsonlTracker()], log_every=1, max_steps=9, valid=True, valid_every=4)
    again.restore(run_state.load_checkpoint(run_state.checkpoint_folder(tmp_path, 5)))
    train(again)
    after = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in after] == [*range(1, 10), 9]
    assert set(after[9]) == {"step", "valid/loss", "valid/perplexity", "valid/bits_per_byte", "valid/tokens"}
    names = ("step", "tokens", "loss/main", "lr", "grad_norm")
    assert [[line[n] for n in names] for line in after[5:8]] == [[line[n] for n in names] for line in lines[5:8]]


def test_progress_without_a_terminal(make_run, tmp_path, capsys):
    run = make_run(tmp_path, callbacks=[ConsoleProgress(PlainConsole(every=0))], max_steps=3, checkpoint_every=0)
    train(run)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "tokens/s" in lines[0]
    assert "left" in lines[0]
    assert lines[-1].startswith("100%")


class Dies(LanguageModeling):
    """Ctrl-C in the middle of a step."""

    def loss(self, model, batch):
        import signal

        signal.raise_signal(signal.SIGINT)
        return super().loss(model, batch)


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(make_run, tmp_path):
    run = make_run(tmp_path, objective=Dies(), accumulate=1)
    assert train(run) == "interrupted"
    assert run.step == 1
    assert run_state.newest_checkpoint(tmp_path)[0].state["step"] == 1


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resumed_is_uninterrupted_to_the_bit(make_run, tmp_path, optimizer):
    fields = {"optimizer": {"name": optimizer}, "max_steps": 10}
    whole = make_run(tmp_path / "a", **fields)
    train(whole)
    half = make_run(tmp_path / "b", **fields)
    half.config = half.config.model_copy(update={"max_steps": 20})
    while half.step < 4:
        half.train_step()
    half.save()
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    rest = make_run(tmp_path / "b", **fields)
    rest.restore(run_state.newest_checkpoint(tmp_path / "b")[0])
    train(rest)
    assert rest.step == 10
    # Only the schedule's share done differs (10 of 20 steps), and at constant rate it says nothing yet.
    assert same(weights(whole.model), weights(rest.model))


def drop_rng(state, monkeypatch):
    monkeypatch.setattr(run_state, "_unpack_rng", lambda *_: None)


def drop_position(state, monkeypatch):
    state["position"] = 0


def drop_moments(state, monkeypatch):
    monkeypatch.setattr(run_state, "_unpack_optimizers", lambda *_: None)


def drop_step(state, monkeypatch):
    state["step"] -= 1


@pytest.mark.parametrize("drop", [drop_rng, drop_position, drop_moments, drop_step])
def test_negative_control_a_resume_that_forgets_is_seen(make_run, tmp_path, monkeypatch, drop):
    whole = make_run(tmp_path / "a")
    train(whole)
    rest = make_run(tmp_path / "a", seed=0)
    torch.manual_seed(5)
    checkpoint = run_state.load_checkpoint(run_state.checkpoint_folder(tmp_path / "a", 9))
    drop(checkpoint.state, monkeypatch)
    rest.restore(checkpoint)
    train(rest)
    assert not same(weights(whole.model), weights(rest.model))


def test_a_damaged_checkpoint_is_passed_over_and_said(make_run, tmp_path):
    train(make_run(tmp_path, keep_last=3))
    found = run_state.list_checkpoints(tmp_path)
    assert [step for step, _ in found] == [12, 9, 6]
    for name, folder in zip(("model.safetensors", "state.json"), (found[0][1], found[1][1]), strict=True):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)
    checkpoint, remarks = run_state.newest_checkpoint(tmp_path)
    assert checkpoint.state["step"] in (6, 9)  # a flipped bit of state.json may be in a number
    assert "step-00000012" in remarks[0]
    for _, folder in found:
        (folder / "optimizer.safetensors").unlink()
    with pytest.raises(IntegrityError):
        run_state.newest_checkpoint(tmp_path)


def test_a_checkpoint_of_another_model_is_refused(make_run, make_model, tmp_path):
    train(make_run(tmp_path))
    checkpoint, _ = run_state.newest_checkpoint(tmp_path)
    with pytest.raises(UsageError, match="another model"):
        make_run(tmp_path, model=make_model(ffn_dim=16)).restore(checkpoint)
    with pytest.raises(UsageError, match="another optimiser"):
        make_run(tmp_path, optimizer={"name": "muon"}).restore(checkpoint)


def test_long_samples_and_short_rows(tmp_path, make_run):
    samples = [Sample([i % 48 for i in range(100)]), Sample([1, 2])]
    run = make_run(tmp_path, objective=LanguageModeling(), sequence_length=16)
    run.batches = Batches(TokenStore.build(tmp_path / "s", samples, vocab_size=48), 4, 16)
    for _ in range(5):
        assert math.isfinite(run.train_step()["loss/main"])


@pytest.mark.fault
def test_a_full_disk_is_said_and_the_older_checkpoint_stays(make_run, small_disk):
    run = make_run(small_disk / "run", keep_last=50)
    (small_disk / "rest").write_bytes(b"x" * 800_000)

    def fill():
        for _ in range(50):
            run.train_step()
            run.save()

    with pytest.raises(StorageError, match=r"disk is full: .*safetensors"):
        fill()
    checkpoint, remarks = run_state.newest_checkpoint(small_disk / "run")
    assert not remarks
    assert checkpoint.state["step"] == run.step - 1 > 0
