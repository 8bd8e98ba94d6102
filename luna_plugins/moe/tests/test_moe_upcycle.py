"""Upcycling: a dense model becomes a sparse one that says the same."""

import pytest
import torch
from luna_plugin_moe.config import UpcycleConfig
from luna_plugin_moe.grower import Upcycle

from luna_kernel.base.errors import UsageError
from luna_kernel.contracts.growth import Grown
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import load_weights
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

SIZES = {"d_model": 32, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}


@pytest.fixture(scope="module")
def registry():
    return load_plugins("moe").registry


@pytest.fixture
def dense(registry):
    torch.manual_seed(0)
    model = Decoder(Blueprint.from_preset("mini", registry, vocab_size=64, dims=SIZES), registry).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def grown_from(model, step=0):
    state = {name: {"exp_avg": torch.ones_like(p)} for name, p in model.named_parameters()}
    return Grown(model.resolved_blueprint.to_json(), model.state_dict(), state, {}, step)


def build(grown, registry):
    with torch.device("meta"):
        model = Decoder(Blueprint.from_json(grown.blueprint), registry)
    load_weights(model, grown.weights, where="grown")
    return model.eval()


@pytest.mark.parametrize(
    "layer",
    [{"name": "moe"}, {"name": "moe", "num_experts": 3, "top_k": 3, "router": {"name": "topk", "scores": "sigmoid"}},
     {"name": "moe", "router": {"name": "emotional"}}, {"name": "moe", "router": {"name": "hash"}}],
)  # fmt: skip
def test_the_function_stays(dense, registry, layer):
    grown = Upcycle(UpcycleConfig(layer=layer)).grow(grown_from(dense), registry)
    sparse = build(grown, registry)
    tokens = torch.randint(0, 64, (2, 30))
    with torch.no_grad():
        expected, found = dense(tokens).logits, sparse(tokens).logits
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-6
    assert [block.ffn["name"] for block in sparse.blueprint.blocks] == ["swiglu", "moe", "swiglu", "moe"]
    assert sparse.blueprint.node_at("blocks.1.ffn")["expert_dim"] == 48


def test_into_the_collaborative_experts(dense):
    pytest.importorskip("luna_plugin_moc")
    registry = load_plugins("moc").registry
    grown = Upcycle(UpcycleConfig(layer={"name": "moc"}, place="last block")).grow(grown_from(dense), registry)
    tokens = torch.randint(0, 64, (2, 30))
    with torch.no_grad():
        expected, found = dense(tokens).logits, build(grown, registry)(tokens).logits
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-6


def test_it_is_pure_and_says_what_is_new(dense, registry):
    before = grown_from(dense, step=7)
    weights = {name: value.clone() for name, value in before.weights.items()}
    grown = Upcycle(UpcycleConfig(place="block 1")).grow(before, registry)
    assert set(before.weights) == set(weights)
    assert all(torch.equal(before.weights[name], value) for name, value in weights.items())
    new = set(grown.weights) - set(weights)
    assert {name: step for name, step in grown.births.items() if step == 7} == dict.fromkeys(new, 7)
    assert set(grown.optimizer_state) == set(before.optimizer_state) & set(grown.weights)
    experts = grown.weights["blocks.1.ffn.w13"]
    assert experts.shape[0] == 8
    assert experts.data_ptr() != experts[1].data_ptr(), "copies, not views of one tensor"


def test_the_copies_part_ways(dense, registry):
    sparse = build(Upcycle(UpcycleConfig()).grow(grown_from(dense), registry), registry).train()
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.1)
    tokens = torch.randint(0, 64, (4, 30))
    sparse.token_losses(tokens[:, :-1], tokens[:, 1:]).sum_loss.backward()
    assert sparse.blocks[1].ffn.w13.grad.abs().max() > 0
    optimizer.step()
    experts = sparse.blocks[1].ffn.w13
    assert (experts[0] - experts[1]).abs().max() > 0


@pytest.mark.parametrize(
    "fields",
    [{"layer": {"name": "moe", "top_k": 1}}, {"layer": {"name": "moe", "activation": "gelu"}},
     {"layer": {"name": "moe", "shared_dim": 8}}, {"layer": {"name": "swiglu", "hidden_dim": 8}}, {"place": "block 9"}],
)  # fmt: skip
def test_what_cannot_be_done_is_an_error(dense, registry, fields):
    with pytest.raises(UsageError):
        Upcycle(UpcycleConfig(**fields)).grow(grown_from(dense), registry)


def test_twice_is_an_error(dense, registry):
    upcycle = Upcycle(UpcycleConfig())
    once = upcycle.grow(grown_from(dense), registry)
    with pytest.raises(UsageError, match=r"blocks\.1\.ffn.*moe"):
        upcycle.grow(once, registry)
