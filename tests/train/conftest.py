"""A tiny model and run that train in milliseconds."""

import numpy as np
import pytest
import torch
from torch import nn

from luna_kernel.contracts.training import LossSum, Objective
from luna_kernel.data.batches import Batches
from luna_kernel.data.token_store import Sample, TokenStore
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.engine import Engine
from luna_kernel.train.loop import TrainRun
from luna_kernel.train.objectives import LanguageModeling
from luna_kernel.train.optimizers import named_parameters

VOCAB = 48
DIMS = {
    "d_model": 16,
    "num_layers": 2,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 8,
    "ffn_dim": 32,
    "max_positions": 64,
}


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch, tmp_path):
    torch.set_num_threads(1)
    monkeypatch.setenv("LUNA_LANG", "en")
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def plugins():
    return load_plugins("none")


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Sentences with a pattern that can be learnt: each id follows from the one before."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(60):
        length = int(rng.integers(3, 40))
        ids = [int(rng.integers(VOCAB))]
        while len(ids) < length:
            ids.append((5 * ids[-1] + 3) % VOCAB)
        samples.append(Sample(ids, [bool(flag) for flag in rng.random(length) < 0.8]))
    return TokenStore.build(tmp_path_factory.mktemp("data") / "store", samples, vocab_size=VOCAB)


class NoisyObjective(LanguageModeling):
    """Draws random numbers at every step, so that a resume without the generators' state is seen."""

    def loss(self, model: nn.Module, batch) -> LossSum:
        output = super().loss(model, batch)
        return LossSum(output.total * (1 + 0.1 * torch.rand(())), output.num_tokens, output.losses, output.metrics)


@pytest.fixture
def make_model(plugins):
    def make(seed=0, **dims):
        blueprint = Blueprint.from_preset("mini", plugins.registry, vocab_size=VOCAB, dims={**DIMS, **dims})
        torch.manual_seed(seed)
        return Decoder(blueprint, plugins.registry)

    return make


@pytest.fixture
def make_run(make_model, store, plugins):
    def make(folder, *, objective: Objective | None = None, model=None, callbacks=(), valid=False, **fields):
        given = {"run_dir": folder, "train_data": ("-",), "batch_size": 2, "accumulate": 2, "max_steps": 12, **fields}
        config = TrainConfig.model_validate({"checkpoint_every": 3, "valid_every": 0, "precision": "fp32", **given})
        model = model or make_model(config.seed)
        registry = plugins.registry
        optimizer = registry.get("optimizer", config.optimizer["name"])
        schedule = registry.get("schedule", config.schedule["name"])
        torch.manual_seed(config.seed)
        rows = config.batch_size * config.accumulate
        return TrainRun(
            config=config,
            folder=folder,
            model=model,
            objective=objective or NoisyObjective(),
            optimizers=optimizer.load()(
                named_parameters(model), optimizer.make_config(config.optimizer), learning_rate=config.learning_rate
            ),
            schedule=schedule.load()(schedule.make_config(config.schedule)),
            batches=Batches(store, rows, config.sequence_length or 24, seed=config.seed),
            engine=Engine(torch.device("cpu"), None),
            valid=Batches(store, 4, 24, shuffle=False) if valid else None,
            byte_lengths=np.full(VOCAB, 3),
            callbacks=list(callbacks),
        )

    return make
