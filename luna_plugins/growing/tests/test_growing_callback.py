"""The callback in real runs: when it grows, what it refuses, and that nothing is lost by stopping."""

import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from luna_plugin_growing.callback import Grow
from luna_plugin_growing.config import GrowConfig

from luna_kernel.base.errors import ConfigError, LunaError, UsageError
from luna_kernel.model.checkpoint import open_model
from luna_kernel.plugins import load_plugins
from luna_kernel.train import run_state
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.loop import train
from luna_kernel.train.training import train_model

BOTH = [{"name": "grow", "at_steps": [3], "warmup_steps": 2, "grower": "depth"}]
QUICK = {"window": 4, "min_improvement": 0.5, "confidence": 0.6, "cooldown": 1, "until": 1.0}


def digest(folder, step):
    checkpoint = run_state.load_checkpoint(run_state.checkpoint_folder(folder, step))
    parts = {**checkpoint.model, **checkpoint.optimizer}
    content = b"".join(name.encode() + parts[name].numpy().tobytes() for name in sorted(parts))
    return hashlib.sha256(content).hexdigest()


def test_it_grows_on_a_plateau_and_then_waits(make_run, tmp_path):
    """A loss that falls by less than half in four measurements is a plateau to this one."""
    run = make_run(tmp_path / "run", valid_every=1, valid_samples=4, max_steps=14)
    run.callbacks = [Grow(GrowConfig(**QUICK, max_growths=2))]
    train(run)
    first, second = (growth.step for growth in run.growths)
    assert first >= 4
    assert second >= first + 1 + 4
    assert run.model.dims.num_layers == 4
    assert [growth.difference for growth in run.growths] == [0, 0]


def test_a_run_with_an_adapter_does_not_grow(make_model, plugins, store, tmp_path):
    """Said before the first step, by the grower that is asked for; nothing is written over."""
    pytest.importorskip("luna_plugin_lora")
    from luna_kernel.data.tokenizer import Tokenizer
    from luna_kernel.model.checkpoint import save_model

    text = tmp_path / "t.txt"
    text.write_text("O gato dorme no telhado da casa. " * 40, encoding="utf-8")
    tokenizer = Tokenizer.train([text.read_text(encoding="utf-8")], 300)
    plan = make_model().blueprint
    dims = dataclasses.replace(plan.dims, vocab_size=tokenizer.vocab_size)
    model = make_model(blueprint=dataclasses.replace(plan, dims=dims))
    save_model(tmp_path / "m", model, plugins=plugins, tokenizer=tokenizer)
    before = (tmp_path / "m" / "model.safetensors").read_bytes()
    config = TrainConfig.model_validate(
        {
            "run_dir": tmp_path / "run", "train_data": (str(text),), "model": tmp_path / "m", "save_to": tmp_path / "m",
            "objective": {"name": "lm"}, "valid_fraction": 0, "sequence_length": 16, "precision": "fp32",
            "preflight": False, "adapter": {"name": "lora"}, "callbacks": BOTH, "max_steps": 4,
        }
    )  # fmt: skip
    with pytest.raises(UsageError, match="cannot grow") as caught:
        train_model(config, plugins=load_plugins("growing,lora"))
    assert "adapter" in (caught.value.hint or "")
    assert not list((tmp_path / "run").glob("**/metrics.jsonl")), "before the first step"
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before


def test_it_does_not_grow_while_the_loss_falls_or_late(make_run, tmp_path):
    for name, fields in (("falls", {"min_improvement": 1e-6, "confidence": 0.999}), ("late", {"until": 0.05})):
        run = make_run(tmp_path / name, valid_every=1, valid_samples=8, max_steps=12, learning_rate=1e-2)
        run.callbacks = [Grow(GrowConfig(**{**QUICK, **fields}))]
        train(run)
        assert run.growths == []


@pytest.mark.parametrize(
    ("grower", "optimizer"),
    [
        ("depth", "muon"),
        ("stack", "adamw"),
        ({"name": "width", "ffn": 1.5, "d_model": 1.5}, "adamw"),
        ("width", "muon"),
    ],
    ids=str,
)
def test_going_on_from_any_step_gives_the_same_bits(make_run, tmp_path, optimizer, grower):
    """Growth on a plateau: the window, too, is in the checkpoint."""

    def make(folder):
        fields = {"max_steps": 12, "valid_every": 1, "valid_samples": 4, "keep_last": 99}
        run = make_run(folder, **fields, optimizer={"name": optimizer})
        run.callbacks = [Grow(GrowConfig(**QUICK, grower=grower, warmup_steps=3, max_growths=2))]
        return run

    whole = make(tmp_path / "whole")
    train(whole)
    steps = [growth.step for growth in whole.growths]
    assert len(steps) == 2
    for step in (1, steps[0], steps[0] + 1, steps[1] - 1, steps[1], steps[1] + 1):
        run = make(tmp_path / f"from-{step}")
        run.restore(run_state.load_checkpoint(run_state.checkpoint_folder(tmp_path / "whole", step)))
        train(run)
        assert [growth.step for growth in run.growths] == steps
        assert digest(tmp_path / f"from-{step}", 12) == digest(tmp_path / "whole", 12), f"from step {step}"


def test_every_layer_trains_on_after_growth(layers, make_run, tmp_path):
    run = make_run(tmp_path / "run", layers=layers, max_steps=40, learning_rate=1e-2, checkpoint_every=0)
    run.callbacks = [Grow(GrowConfig(at_steps=(10,), warmup_steps=5))]
    train(run)
    assert run.growths[0].difference == 0
    assert run.model.dims.num_layers == 3
    assert run.metrics["loss/main"] < 2.5
    new = run.model.blocks[2]
    for part in (new.mixer, new.ffn):
        for name in part.output_parameters():
            assert part.get_parameter(name).any()


def test_what_cannot_grow_is_said_before_the_first_step(make_run, tmp_path):
    pytest.importorskip("luna_plugin_moc")
    run = make_run(tmp_path / "run", layers="moc")
    run.callbacks = [Grow(GrowConfig(at_steps=(5,), grower={"name": "width"}))]
    with pytest.raises(UsageError, match=r"blocks\.0\.ffn.*'moc'"):
        train(run)
    assert run.step == 0
    run = make_run(tmp_path / "other")
    run.callbacks = [Grow(GrowConfig())]
    with pytest.raises(UsageError, match="held out"):
        train(run)


def test_wrong_configurations(plugins):
    component = plugins.registry.get("callback", "grow")
    assert component.make_config({"grower": "width"}).grower == {"name": "width"}
    for fields, text in (
        ({"grower": {"blocks": 2}}, "needs a name"),
        ({"at_steps": [0]}, "counted from 1"),
        ({"window": 3}, "window"),
        ({"windw": 9}, "window"),
    ):
        with pytest.raises(ConfigError, match=text):
            component.make_config(fields)


# --- the whole way ----------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    text = tmp_path / "contos"
    text.mkdir()
    for n in range(30):
        story = f"Era uma vez, há {n} anos, um gato que dormia no telhado da casa {n}, e outro que o via dormir. "
        (text / f"{n}.txt").write_text(story * 3, "utf-8")
    dims = {"d_model": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "ffn_dim": 16}

    def make(name="run", **fields):
        given = {"run_dir": tmp_path / name, "train_data": (str(text),), "vocab_size": 300, "max_steps": 8}
        given |= {"new_model": {"preset": "mini", "dims": dims}, "batch_size": 2, "sequence_length": 32}
        given |= {"checkpoint_every": 2, "valid_every": 2, "precision": "fp32", "valid_fraction": 0.2}
        return TrainConfig.model_validate({**given, "callbacks": BOTH, **fields})

    return make


def test_the_finished_model_has_the_blueprint_that_it_grew_to(config, plugins):
    result = train_model(config(), plugins=plugins)
    opened = open_model(result.model_dir, selection="all")
    assert opened.model.dims.num_layers == 3
    told = json.loads((result.model_dir / "luna.json").read_text("utf-8"))
    assert len(told["blueprint"]["blocks"]) == told["blueprint"]["dims"]["num_layers"] == 3
    (growth,) = told["training"]["growths"]
    assert (growth["step"], growth["grower"]["name"], growth["difference"]) == (3, "depth", 0.0)
    again = train_model(config(max_steps=12), plugins=plugins)
    assert (again.resumed_from, again.steps) == (8, 12)
    assert open_model(again.model_dir, selection="all").model.dims.num_layers == 3


def test_the_best_model_may_be_one_from_before_the_growth(config, plugins, monkeypatch):
    from luna_kernel.train import loop

    values = iter([1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: {"valid/bits_per_byte": next(values), "valid/loss": 1.0})
    result = train_model(config(), plugins=plugins)
    assert result.best_step == 2
    opened = open_model(result.model_dir, selection="all")
    assert opened.model.dims.num_layers == 2
    assert "growths" not in opened.manifest.training


def test_a_grown_model_is_trained_further(config, plugins):
    first = train_model(config(), plugins=plugins)
    second = train_model(config("outra", model=first.model_dir, max_steps=4), plugins=plugins)
    assert open_model(second.model_dir, selection="all").model.dims.num_layers == 4


def test_it_is_switched_on_from_the_command_line(config, tmp_path):
    given = json.loads(config().model_dump_json(exclude={"callbacks", "save_to"}))
    (tmp_path / "run.json").write_text(json.dumps(given), encoding="utf-8")
    node = '{"name": "grow", "at_steps": [3], "grower": {"name": "width", "ffn": 3}}'
    command = [sys.executable, "-m", "luna_kernel", "train", "run.json", "--plugins", "growing", "--callback", node]
    done = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    opened = open_model(json.loads(done.stdout)["model_dir"], selection="all")
    assert opened.model.blocks[1].ffn.down.weight.shape == (16, 48)
    assert "Step 3: 'width' made the model larger" in done.stderr


# --- kills ------------------------------------------------------------------------------------------------------------

KILLS, STEPS = 12, 40


def work(make_run, folder):
    run = make_run(folder, max_steps=STEPS, keep_last=2)
    growth = {"at_steps": tuple(range(4, STEPS, 4)), "warmup_steps": 3, "grower": {"name": "depth"}}
    run.callbacks = [Grow(GrowConfig(**growth))]
    run_state.tidy(folder)
    checkpoint, remarks = run_state.newest_checkpoint(folder)
    assert not remarks
    if checkpoint is not None:
        run.restore(checkpoint)
    train(run)


def in_child(job):
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            job()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    return pid


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_kills_change_no_bit_of_a_run_that_grows_nine_times(make_run, tmp_path):
    begin = time.monotonic()
    assert os.waitpid(in_child(lambda: work(make_run, tmp_path / "whole")), 0)[1] == 0
    seconds = time.monotonic() - begin
    rng = random.Random(7)
    folder, resumed = tmp_path / "killed", []

    def newest():
        found = run_state.list_checkpoints(folder)
        return found[0][0] if found else 0

    for _ in range(KILLS):
        before = newest()
        pid = in_child(lambda: work(make_run, folder))
        while newest() <= before:
            time.sleep(0.0005)
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it could be killed"
        time.sleep(rng.uniform(0.0, 1.2) * seconds / STEPS)
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        resumed.append(newest())
    assert os.waitpid(in_child(lambda: work(make_run, folder)), 0)[1] == 0
    assert len(set(resumed)) == KILLS
    assert digest(folder, STEPS) == digest(tmp_path / "whole", STEPS)
    blueprint = run_state.load_checkpoint(run_state.checkpoint_folder(folder, STEPS)).state["blueprint"]
    assert blueprint["dims"]["num_layers"] == 2 + 9


def test_a_growth_that_would_change_the_output_is_refused_at_the_rehearsal(make_run, tmp_path, monkeypatch):
    from luna_plugin_growing.width import Width

    monkeypatch.setattr(Width, "tolerance", 0.0)
    run = make_run(tmp_path / "run")
    run.callbacks = [Grow(GrowConfig(at_steps=(3,), grower={"name": "width"}))]
    with pytest.raises(LunaError, match="would change the model's output at step 0"):
        train(run)
