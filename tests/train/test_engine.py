"""Device, precision, and several processes that share a step."""

import io
import os

import pytest
import torch
import torch.distributed as dist

from luna_kernel.base.errors import UsageError
from luna_kernel.train.console import LiveConsole, PlainConsole, QuietConsole, make_console
from luna_kernel.train.engine import Engine
from luna_kernel.train.objectives import LanguageModeling


def test_auto_says_what_it_chose_and_why():
    engine = Engine.choose("auto", "auto")
    assert len(engine.choice) == 2
    assert str(engine.device) in engine.choice[0]
    assert ("bf16" if engine.dtype else "fp32") in engine.choice[1]
    assert "(" in engine.choice[1]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16)])
def test_what_is_asked_for_is_taken(precision, dtype):
    assert Engine.choose("cpu", precision).dtype is dtype


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="cuda"):
        Engine.choose("cuda", "auto")


def test_bf16_is_near_fp32(make_run, tmp_path):
    exact = make_run(tmp_path, objective=LanguageModeling())
    rough = make_run(tmp_path, objective=LanguageModeling())
    rough.engine = Engine(torch.device("cpu"), torch.bfloat16)
    for _ in range(3):
        a, b = exact.train_step(), rough.train_step()
    assert b["loss/main"] == pytest.approx(a["loss/main"], rel=2e-2)
    assert b["loss/main"] != a["loss/main"]
    assert all(p.dtype == torch.float32 for p in rough.model.parameters())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not (hasattr(os, "fork") and dist.is_gloo_available()), reason="needs fork and gloo")
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_take_the_same_step_as_one(make_run, tmp_path, world):
    def steps(folder):
        run = make_run(folder, objective=LanguageModeling(), batch_size=1, accumulate=4)
        for _ in range(3):
            metrics = run.train_step()
        return run, metrics

    children = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            try:
                torch.set_num_threads(1)
                dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=rank, world_size=world)
                run, metrics = steps(tmp_path / "many")
                torch.save({"loss": metrics["loss/main"], **run.model.state_dict()}, tmp_path / f"{rank}.pt")
                dist.destroy_process_group()
                os._exit(0)
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * world
    run, metrics = steps(tmp_path / "one")
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(world)]
    for content in found:
        assert content.pop("loss") == pytest.approx(metrics["loss/main"], abs=1e-5)
        for name, tensor in run.model.state_dict().items():
            assert torch.equal(content[name], found[0][name])
            assert torch.allclose(content[name], tensor, atol=2e-5)


def test_consoles(monkeypatch):
    assert isinstance(make_console(quiet=True), QuietConsole)
    assert isinstance(make_console(stream=io.StringIO()), PlainConsole)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    console = make_console(stream=out)
    assert isinstance(console, LiveConsole)
    console.say("antes")
    console.start_progress("Treinando")
    console.progress(0.5, "passo 5", 3725.0)
    console.say("[no meio]")
    console.progress(1.0, "passo 9", None)
    console.end_progress()
    shown = out.getvalue()
    assert "antes" in shown
    assert "[no meio]" in shown
    assert "passo 9" in shown
    monkeypatch.setenv("TERM", "dumb")
    assert not isinstance(make_console(stream=out), LiveConsole)


def test_plain_progress_is_a_line_now_and_then():
    out = io.StringIO()
    console = PlainConsole(out, every=60)
    console.start_progress("")
    for step in range(5):
        console.progress(step / 4, f"passo {step}", 3725.0)
    console.end_progress()
    lines = out.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["0", "4"]
    assert "1:02:05" in lines[0]
