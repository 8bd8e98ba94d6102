"""Tiny models of every kind of layer, and runs of them that train in milliseconds."""

import importlib.util

import numpy as np
import pytest
import torch

from luna_kernel.data.batches import Batches
from luna_kernel.data.token_store import Sample, TokenStore
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.engine import Engine
from luna_kernel.train.loop import TrainRun
from luna_kernel.train.objectives import LanguageModeling
from luna_kernel.train.optimizers import make_optimizers

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
MOC = {"num_experts": 4, "top_k": 2, "probe_rank": 8, "fusion_dim": 8, "shared_dim": 8}
LAYERS = {
    "dense": {},
    "moc": {"components": ["moc"], "place": {"moc": "every block"}, "configs": {"moc": MOC}},
    "ssm": {
        "components": ["ssm"],
        "place": {"ssm": "every block"},
        "configs": {"ssm": {"state_dim": 8, "chunk_size": 8}},
    },
    "hybrid": {"place": {"hybrid": "every block"}, "configs": {"hybrid": {"ssm": {"state_dim": 8, "chunk_size": 8}}}},
    "moc and ssm": {
        "components": ["moc", "ssm"],
        "place": {"moc": "block 0", "ssm": "block 1"},
        "configs": {"moc": MOC, "ssm": {"state_dim": 8, "chunk_size": 8}},
    },
    "moe": {
        "components": ["moe"],
        "place": {"moe": "every block"},
        "configs": {"moe": {"num_experts": 4, "shared_dim": 8}},
    },
    "hypernet": {
        "components": ["domain_adapter", "hyper_adapter"],
        "place": {"domain_adapter": "ffn of every block", "hyper_adapter": "mixer of every block"},
        "configs": {
            "domain_adapter": {"domains": 3, "rank": 2, "hidden": 4},
            "hyper_adapter": {"source": "text", "width": 3, "rank": 2, "hidden": 4},
        },
    },
}
LAYERS["all"] = {
    "components": ["moc", "ssm", "domain_adapter"],
    "place": {"moc": "every block", "ssm": "every block", "domain_adapter": "ffn of every block"},
    "configs": {
        "moc": MOC,
        "ssm": {"state_dim": 8, "chunk_size": 8},
        "domain_adapter": {"domains": 3, "rank": 2, "hidden": 4},
    },
}
NEEDS = {
    "dense": (),
    "moc": ("moc",),
    "ssm": ("ssm",),
    "hybrid": ("ssm",),
    "moc and ssm": ("moc", "ssm"),
    "moe": ("moe",),
    "hypernet": ("hypernet",),
    "all": ("moc", "ssm", "hypernet"),
}


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch, tmp_path):
    torch.set_num_threads(1)
    monkeypatch.setenv("LUNA_LANG", "en")
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def plugins():
    wanted = [
        "growing",
        *(name for name in ("moc", "moe", "ssm", "hypernet") if importlib.util.find_spec(f"luna_plugin_{name}")),
    ]
    return load_plugins(",".join(wanted))


@pytest.fixture(params=list(LAYERS))
def layers(request):
    """The name of each kind of model whose plugins are installed."""
    for name in NEEDS[request.param]:
        pytest.importorskip(f"luna_plugin_{name}")
    return request.param


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Sentences with a pattern that can be learnt: each id follows from the one before."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(60):
        ids = [int(rng.integers(VOCAB))]
        for _ in range(int(rng.integers(3, 40))):
            ids.append((5 * ids[-1] + 3) % VOCAB)
        samples.append(Sample(ids))
    return TokenStore.build(tmp_path_factory.mktemp("data") / "store", samples, vocab_size=VOCAB)


@pytest.fixture
def make_model(plugins):
    """make_model(layers="dense", stir=True, tie_embeddings=True, **dims); `stir`: weights like a trained one's."""

    def make(layers="dense", *, stir=True, seed=0, blueprint=None, **dims):
        if blueprint is None:
            sizes = {**DIMS, **dims}
            blueprint = Blueprint.from_preset("mini", plugins.registry, vocab_size=VOCAB, dims=sizes, **LAYERS[layers])
        torch.manual_seed(seed)
        model = Decoder(blueprint, plugins.registry)
        if stir:
            with torch.no_grad():
                for weight in model.parameters():
                    weight += 0.2 * torch.randn_like(weight)
        return model

    return make


@pytest.fixture
def make_run(make_model, store, plugins):
    def make(folder, *, model=None, layers="dense", callbacks=(), **fields):
        given = {"run_dir": folder, "train_data": ("-",), "batch_size": 2, "accumulate": 2, "max_steps": 12, **fields}
        config = TrainConfig.model_validate({"checkpoint_every": 1, "valid_every": 0, "precision": "fp32", **given})
        model = model or make_model(layers, stir=False, seed=config.seed)
        registry = plugins.registry
        schedule = registry.get("schedule", config.schedule["name"])
        made = [registry.get("callback", node["name"]) for node in config.callbacks]
        torch.manual_seed(config.seed)
        return TrainRun(
            config=config,
            folder=folder,
            model=model,
            objective=LanguageModeling(),
            optimizers=make_optimizers(model, config, registry),
            schedule=schedule.load()(schedule.make_config(config.schedule)),
            batches=Batches(store, config.batch_size * config.accumulate, 24, seed=config.seed),
            engine=Engine(torch.device("cpu"), None),
            plugins=plugins,
            valid=Batches(store, 4, 24, shuffle=False) if config.valid_every else None,
            byte_lengths=np.full(VOCAB, 3),
            callbacks=[
                *callbacks,
                *(c.load()(c.make_config(node)) for c, node in zip(made, config.callbacks, strict=True)),
            ],
        )

    return make


@pytest.fixture(scope="session")
def take():
    """take(model, births={}): what a grower is given."""
    from luna_kernel.contracts.growth import Grown

    def make(model, optimizer_state=None, births=None, step=7):
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return Grown(model.resolved_blueprint.to_json(), weights, optimizer_state or {}, births or {}, step)

    return make


@pytest.fixture(scope="session")
def build(plugins):
    """build(grown): its model, in eval mode."""

    def make(grown):
        model = Decoder(Blueprint.from_json(grown.blueprint), plugins.registry)
        model.load_state_dict(grown.weights, strict=True)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_grower(plugins):
    """make_grower(name, **fields)."""

    def make(name, **fields):
        component = plugins.registry.get("grower", name)
        return component.load()(component.make_config(fields))

    return make
