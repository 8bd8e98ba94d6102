"""Fewer experts per token in a model in use: what is proposed, what it changes, and what it leaves as it is."""

import pytest
import torch

from luna_kernel.base.errors import UsageError
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import save_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.facts import model_facts
from luna_kernel.model.fewer_experts import limit_experts
from luna_kernel.plugins import load_plugins

SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "ffn_dim": 48}
EXPERTS, TOP_K, HIDDEN = 6, 3, 16


@pytest.fixture(scope="module")
def plugins():
    return load_plugins("moe")


def make_model(plugins, **fields):
    node = {"num_experts": EXPERTS, "top_k": TOP_K, "expert_dim": HIDDEN, "balance": "none", **fields}
    plan = Blueprint.from_preset(
        "mini", plugins.registry, vocab_size=64, components=["moe"], configs={"moe": node}, dims=SIZES
    )
    torch.manual_seed(0)
    model = Decoder(plan, plugins.registry).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn_like(weight)
    return model


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize("most", [1, 2])
def test_the_best_remain_and_their_weights_sum_to_one(plugins, most, scores):
    model = make_model(plugins, router={"name": "topk", "scores": scores})
    layer, x = model.blocks[1].ffn, torch.randn(7, 32)
    before = layer.router(x, None)
    (lowered,) = limit_experts(model, most)
    assert (lowered.place, lowered.before, lowered.after) == ("blocks.1.ffn.router", TOP_K, most)
    after = layer.router(x, None)
    assert torch.equal(after.experts, before.experts[:, :most])
    kept = before.weights[:, :most]
    torch.testing.assert_close(after.weights, kept / kept.sum(-1, keepdim=True))


def test_the_output_is_that_of_the_experts_that_are_left(plugins):
    model = make_model(plugins)
    layer, x = model.blocks[1].ffn, torch.randn(1, 5, 32)
    limit_experts(model, 1)
    tokens = torch.randint(0, 64, (1, 5))
    assert torch.isfinite(model(tokens).logits).all()
    from luna_kernel.contracts.layers import Context

    y = layer(x, Context(torch.arange(5)[None]))[0]
    experts = layer.router(x[0], None).experts[:, 0]
    for row, (token, expert) in enumerate(zip(x[0], experts, strict=True)):
        gate, value = (layer.w13[expert] @ token).chunk(2)
        torch.testing.assert_close(y[row], layer.w2[expert] @ (torch.nn.functional.silu(gate) * value))


def test_one_expert_of_one_keeps_its_probability(plugins):
    """Trained with one expert, its weight is its score; nothing is lowered, so nothing changes."""
    model = make_model(plugins, top_k=1)
    tokens = torch.randint(0, 64, (2, 5))
    before = model(tokens).logits
    assert limit_experts(model, 1) == []
    assert torch.equal(model(tokens).logits, before)


def test_decoding_and_the_whole_still_agree(plugins):
    model = make_model(plugins)
    limit_experts(model, 2)
    tokens = torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        whole, state = model(tokens).logits, model.make_state(2, 9)
        parts = [model(tokens[:, i : i + 1], state=state).logits for i in range(9)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)


def test_none_is_too_few(plugins):
    with pytest.raises(UsageError, match="1"):
        limit_experts(make_model(plugins), 0)


def test_facts_count_what_rests(plugins, tmp_path):
    save_model(tmp_path / "m", make_model(plugins), plugins=plugins)
    one = 4 * 3 * 32 * HIDDEN
    facts = model_facts(tmp_path / "m", plugins.registry)
    assert (facts.top_k, facts.expert_bytes, facts.resting_bytes) == (TOP_K, one, (EXPERTS - TOP_K) * one)
    assert model_facts(tmp_path / "m").top_k == 0, "a layer that nobody knows is taken to work as a whole"


def test_the_collaborative_layer_says_when_its_experts_rest():
    config = pytest.importorskip("luna_plugin_moc.config").MoCConfig
    assert config().resting_experts == (8, 2)
    assert config(context="full").resting_experts is None
    assert config(context="autonomy", fusion="sum").resting_experts is None
    assert config(context="none", fusion="chain").resting_experts is None
