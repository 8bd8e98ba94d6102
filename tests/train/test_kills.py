"""A run that is killed at random moments, and started again each time, gives the weights of one that never was."""

import hashlib
import os
import random
import signal
import time

import pytest
import torch

from luna_kernel.train import run_state
from luna_kernel.train.callbacks import JsonlTracker
from luna_kernel.train.loop import train

KILLS = 20
STEPS = 60
EVERY = 1


def digest(folder):
    checkpoint = run_state.load_checkpoint(run_state.checkpoint_folder(folder, STEPS))
    parts = {**checkpoint.model, **checkpoint.optimizer}
    content = b"".join(name.encode() + parts[name].numpy().tobytes() for name in sorted(parts))
    return hashlib.sha256(content).hexdigest()


def work(make_run, folder, *, forget=False):
    """What `luna train` does: sweep, take the newest whole checkpoint, go on."""
    run = make_run(folder, max_steps=STEPS, checkpoint_every=EVERY, callbacks=[JsonlTracker()], log_every=1)
    run_state.tidy(folder)
    checkpoint, remarks = run_state.newest_checkpoint(folder)
    assert not remarks
    if checkpoint is not None:
        if forget:
            checkpoint.state["position"] = 0
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


def killed_and_resumed(make_run, folder, seconds, *, kills=KILLS, forget=False):
    """Kill so many starts, each at a random moment after its first checkpoint, then let one finish.

    Returns the steps at which the starts after kills took up the work.
    """
    rng = random.Random(7)
    resumed = []
    for _ in range(kills):
        before = newest(folder)
        pid = in_child(lambda: work(make_run, folder, forget=forget))
        while newest(folder) <= before:
            time.sleep(0.0005)
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it could be killed"
        time.sleep(rng.uniform(0.0, 1.2) * seconds * EVERY / STEPS)
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        resumed.append(newest(folder))
    assert os.waitpid(in_child(lambda: work(make_run, folder, forget=forget)), 0)[1] == 0
    return resumed


def newest(folder):
    found = run_state.list_checkpoints(folder)
    return found[0][0] if found else 0


@pytest.mark.fault
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_twenty_kills_change_no_bit(make_run, tmp_path):
    begin = time.monotonic()
    assert os.waitpid(in_child(lambda: work(make_run, tmp_path / "whole")), 0)[1] == 0
    seconds = time.monotonic() - begin
    wanted = digest(tmp_path / "whole")
    resumed = killed_and_resumed(make_run, tmp_path / "killed", seconds)
    assert len(set(resumed)) == KILLS
    assert resumed[-1] < STEPS
    assert digest(tmp_path / "killed") == wanted
    left = [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir() if "luna-" in path.name]
    assert left == []
    killed_and_resumed(make_run, tmp_path / "forgetful", seconds, kills=2, forget=True)
    assert digest(tmp_path / "forgetful") != wanted
