"""Growth of a live run: what it keeps, what it refuses, and that stopping anywhere around it changes no bit."""

import dataclasses
import hashlib
import os
import signal

import pytest
import torch

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.contracts.training import Callback
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins
from luna_kernel.train import growth, run_state
from luna_kernel.train.growth import GrowthRequest
from luna_kernel.train.loop import train

GROWERS = '''
"""A block more, and growers that do wrong."""
import copy, os, signal
from pathlib import Path

import torch

from luna_kernel import hookimpl
from luna_kernel.contracts.growth import Grower, Grown

LUNA_API = 1


@hookimpl
def luna_add_layers(add):
    for name in ("Deeper", "Louder", "Writer", "Fatal", "Free"):
        add("grower", name.lower(), f"{__name__}:{name}")


class Deeper(Grower):
    tolerance = 0.0

    def grow(self, model, registry):
        plan = copy.deepcopy(model.blueprint)
        last = len(plan["blocks"]) - 1
        plan["blocks"].append(plan["blocks"][last])
        plan["dims"]["num_layers"] += 1
        new = {}
        for name, value in model.weights.items():
            if name.startswith(f"blocks.{last}."):
                writes = name.endswith(("out.weight", "down.weight"))
                value = torch.zeros_like(value) if writes else value + 0.01 * torch.randn(value.shape)
                new[name.replace(f"blocks.{last}.", f"blocks.{last + 1}.")] = value
        births = {**model.births, **dict.fromkeys(new, model.step)}
        return Grown(plan, {**model.weights, **new}, model.optimizer_state, births)


class Louder(Deeper):
    def grow(self, model, registry):
        grown = super().grow(model, registry)
        grown.weights["norm.weight"] = grown.weights["norm.weight"] * 1.01
        return grown


class Free(Louder):
    tolerance = None


class Writer(Deeper):
    def grow(self, model, registry):
        model.weights["norm.weight"].mul_(1)
        return super().grow(model, registry)


class Fatal(Deeper):
    """The power goes off in the middle of the first growth."""

    def grow(self, model, registry):
        marker = Path(os.environ["LUNA_TEST_MARKER"])
        if not marker.exists():
            marker.write_text("dead")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().grow(model, registry)
'''

STEPS = 10
GROWTHS = {3: "deeper", 6: "deeper"}


@pytest.fixture(scope="module")
def growers(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "growers.py"
    path.write_text(GROWERS)
    return load_plugins(f"none,{path}")


class At(Callback):
    """Grows after given steps; the state says what was asked for and has not happened."""

    name = "at"

    def __init__(self, steps, **fields):
        super().__init__()
        self.steps, self.fields, self.open, self.seen = steps, fields, None, []

    def _ask(self, run):
        run.ask_growth(GrowthRequest({"name": self.open}, **{"warmup_steps": 3, **self.fields}))

    def start(self, run):
        if self.open:
            self._ask(run)

    def step_end(self, run, metrics):
        if run.step in self.steps:
            self.open = self.steps[run.step]
            self._ask(run)

    def grown(self, run, growth):
        self.open = None
        self.seen.append(growth)

    def state(self):
        return {"open": self.open}

    def load_state(self, state):
        self.open = state["open"]


@pytest.fixture
def make(make_run, growers):
    def make(folder, steps=GROWTHS, **fields):
        request = {key: fields.pop(key) for key in ("lr_scale", "warmup_steps") if key in fields}
        given = {"max_steps": STEPS, "checkpoint_every": 1, "keep_last": 99, **fields}
        run = make_run(folder, callbacks=[At(steps, **request)], **given)
        run.plugins = growers
        return run

    return make


def digest(folder, step=STEPS):
    checkpoint = run_state.load_checkpoint(run_state.checkpoint_folder(folder, step))
    parts = {**checkpoint.model, **checkpoint.optimizer}
    content = b"".join(name.encode() + parts[name].numpy().tobytes() for name in sorted(parts))
    return hashlib.sha256(content).hexdigest()


def test_the_model_grows_and_what_was_there_keeps_its_moments(make, tmp_path):
    run = make(tmp_path / "run", {})
    train(run)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    names = {id(p): name for name, p in run.model.named_parameters()}
    moments = {names[id(p)]: dict(entries) for o in run.optimizers for p, entries in o.state.items()}
    done = growth.grow(run, GrowthRequest({"name": "deeper"}, 5, 0.5))
    assert done.difference == 0
    assert done.parameters_after > done.parameters_before == sum(v.numel() for v in before.values())
    assert run.model.blueprint.dims.num_layers == 3
    after = run.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    new = {name: p for name, p in run.model.named_parameters() if name.startswith("blocks.2.")}
    assert set(run.births) == set(new)
    state = {id(p): entries for o in run.optimizers for p, entries in o.state.items()}
    for name, parameter in run.model.named_parameters():
        if name in new:
            assert id(parameter) not in state
        else:
            mine = state[id(parameter)]
            assert set(mine) == set(moments[name])
            assert all(torch.equal(mine[key], value) for key, value in moments[name].items())
            assert all(mine[key] is not value for key, value in moments[name].items())
    grouped = [id(p) for o in run.optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in run.model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_new_parameters_have_a_warm_up_and_a_rate_of_their_own(make, tmp_path, optimizer):
    run = make(
        tmp_path / "run", {3: "deeper"}, optimizer={"name": optimizer}, lr_scale=0.5, warmup_steps=4,
        schedule={"name": "wsd", "warmup_steps": 0, "decay_share": 0},
    )  # fmt: skip
    rates = []

    class Look(Callback):
        def step_end(self, run, metrics):
            found = {}
            for optimizer in run.optimizers:
                for group in optimizer.param_groups:
                    found.setdefault("new" if "born" in group else "old", set()).add(round(group["lr"] / 1e-3, 9))
            rates.append(found)

    run.callbacks.append(Look())
    train(run)
    assert all(found["old"] == {1.0} for found in rates)
    new = [found.get("new") for found in rates]
    assert new == [None, None, None, {0.1}, {0.2}, {0.3}, {0.4}, {0.5}, {0.5}, {0.5}]


def test_the_new_block_learns_and_the_old_ones_go_on(make, tmp_path):
    run = make(tmp_path / "run", {4: "deeper"}, max_steps=8)
    train(run)
    weights = run.model.state_dict()
    assert weights["blocks.2.ffn.down.weight"].abs().max() > 0
    assert weights["blocks.2.mixer.out.weight"].abs().max() > 0
    assert [g.step for g in run.callbacks[0].seen] == [4]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_going_on_from_any_step_gives_the_same_bits(make, tmp_path, optimizer):
    """Before, at and after each growth; also where the growth had been asked for and not yet taken place."""
    whole = tmp_path / "whole"
    train(make(whole, optimizer={"name": optimizer}))
    wanted = digest(whole)
    for step in range(1, STEPS):
        run = make(tmp_path / f"from-{step}", optimizer={"name": optimizer})
        checkpoint = run_state.load_checkpoint(run_state.checkpoint_folder(whole, step))
        run.restore(checkpoint)
        assert len(run.growths) == (step > 3) + (step > 6)
        train(run)
        assert digest(tmp_path / f"from-{step}") == wanted, f"from step {step}"
        assert [g.step for g in run.growths] == [3, 6]
    other = make(tmp_path / "other", {3: "deeper", 7: "deeper"}, optimizer={"name": optimizer})
    train(other)
    assert digest(tmp_path / "other") != wanted


def test_a_grown_run_goes_back_to_a_checkpoint_from_before(make, tmp_path):
    run = make(tmp_path / "run")
    train(run)
    wanted = digest(tmp_path / "run")
    run.restore(run_state.load_checkpoint(run_state.checkpoint_folder(tmp_path / "run", 2)))
    assert (run.step, run.model.dims.num_layers, run.growths, run.births) == (2, 2, [], {})
    run.saved_step = -1
    train(run)
    assert digest(tmp_path / "run") == wanted


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_in_the_middle_of_a_growth(make, tmp_path, monkeypatch):
    monkeypatch.setenv("LUNA_TEST_MARKER", str(tmp_path / "marker"))

    def work():
        run = make(tmp_path / "run", {3: "deeper", 6: "fatal"})
        run_state.tidy(tmp_path / "run")
        checkpoint, _ = run_state.newest_checkpoint(tmp_path / "run")
        if checkpoint is not None:
            run.restore(checkpoint)
        train(run)

    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    assert run_state.list_checkpoints(tmp_path / "run")[0][0] == 6
    work()
    train(make(tmp_path / "whole"))
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")


def test_a_growth_that_changes_the_output_is_refused_and_leaves_the_run_alone(make, tmp_path):
    run = make(tmp_path / "run", {})
    model, optimizers = run.model, run.optimizers
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(LunaError, match=r"louder.*logits differ by 0\.01"):
        growth.grow(run, GrowthRequest({"name": "louder"}))
    assert run.model is model
    assert run.optimizers is optimizers
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    done = growth.grow(run, GrowthRequest({"name": "free"}))
    assert done.difference == pytest.approx(0.01, rel=1e-3)


def test_a_grower_that_writes_into_what_it_is_given_is_refused(make, tmp_path):
    with pytest.raises(LunaError, match=r"wrote into the model.*norm\.weight"):
        growth.grow(make(tmp_path / "run", {}), GrowthRequest({"name": "writer"}))


def test_unknown_growers_and_models_without_a_blueprint(make, tmp_path):
    run = make(tmp_path / "run", {})
    with pytest.raises(UsageError, match=r"grower: .*deepr.*deeper"):
        growth.grow(run, GrowthRequest({"name": "deepr"}))
    run.model = torch.nn.Linear(2, 2)
    with pytest.raises(UsageError, match="Linear cannot grow"):
        growth.grow(run, GrowthRequest({"name": "deeper"}))


def test_a_rehearsal_changes_nothing(make, tmp_path):
    run = make(tmp_path / "run", {})
    model, generator = run.model, torch.get_rng_state()
    found = growth.rehearse(run, GrowthRequest({"name": "deeper"}))
    assert (run.model is model, run.growths, found.difference) == (True, [], 0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert run.model.training


def test_what_is_kept_of_a_growth_is_plain(make, tmp_path):
    run = make(tmp_path / "run", {2: "deeper"}, max_steps=3)
    train(run)
    state = run_state.load_checkpoint(run_state.checkpoint_folder(tmp_path / "run", 3)).state
    assert state["blueprint"]["dims"]["num_layers"] == 3
    assert state["growths"] == [dataclasses.asdict(run.growths[0])]
    assert state["growths"][0]["grower"] == {"name": "deeper"}
    assert isinstance(run.model, Decoder)
