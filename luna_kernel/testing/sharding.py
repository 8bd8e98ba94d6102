"""One layer in two processes with `fully_shard` over gloo, against the same layer in one; run by the suite.

Each process builds the layer twice from the same seed, plain and sharded, and gives the sharded one its half of the
batch. It leaves with status 0 if outputs and gradients agree.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import torch

from luna_kernel.contracts.layers import Dims
from luna_kernel.plugins import load_plugins

from .subject import Sample, Subject

if TYPE_CHECKING:
    from .layers import LayerConformance

WORLD = 2
ROWS = 4
LENGTH = 8


def compare_sharded(suite: type[LayerConformance]) -> None:
    """Run the comparison for a suite's component; fails with the processes' output."""
    task = {
        "component": suite.component,
        "config": dict(suite.config),
        "dims": dataclasses.asdict(suite.dims),
        "conditions": dict(suite.conditions),
        "tolerance": suite.tolerance,
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", __name__, json.dumps(task), folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        workers = [
            subprocess.Popen(  # noqa: S603  our own module
                [*command, str(rank)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(WORLD)
        ]
        try:
            texts = [worker.communicate(timeout=120)[0] for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert all(worker.returncode == 0 for worker in workers), "\n".join(texts)


def work(task: dict[str, Any], folder: str, rank: int) -> None:
    """One process of the comparison."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    from .layer_material import assert_near

    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    kind, name = task["component"]
    registry, dims = load_plugins().registry, Dims(**task["dims"])

    def make() -> Subject:
        torch.manual_seed(0)
        subject = Subject(kind, name, task["config"], dims, registry)
        subject.stir()
        return subject

    whole, shard = make(), make()
    fully_shard(shard)
    sample = Sample.random(ROWS, LENGTH, dims, task["conditions"])
    own = list(range(rank * ROWS // WORLD, (rank + 1) * ROWS // WORLD))
    mine = sample.rows(own)
    expected = whole(sample.x, sample.context())
    actual = shard(mine.x, mine.context())
    assert_near(actual, expected[own], task["tolerance"], "sharded output")
    expected.square().sum().backward()
    actual.square().sum().backward()
    for (weight, plain), sharded in zip(whole.named_parameters(), shard.parameters(), strict=True):
        assert (plain.grad is None) == (sharded.grad is None), f"gradient of {weight}"
        if plain.grad is not None and sharded.grad is not None:
            total = WORLD * sharded.grad.full_tensor()  # type: ignore[attr-defined]  # it averages over processes
            assert_near(total, plain.grad, task["tolerance"], f"gradient of {weight}, sharded")
    dist.barrier()  # neither closes its connections while the other still talks
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads, when the interpreter takes them down, now and then abort a process that is done


if __name__ == "__main__":
    work(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
