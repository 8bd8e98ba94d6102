"""The mixture against the slow definition, and the properties that the definition promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_moe.config import MoEConfig
from luna_plugin_moe.layer import expert_width

from luna_kernel.contracts.layers import Context


def run(layer, x, segment_ids=None, *, train=False, **fields):
    ctx = Context(torch.arange(x.shape[1]).expand(x.shape[:2]), segment_ids, **fields)
    layer.train(train)
    return layer(x, ctx), ctx


def expert(token, w13, w2, activation):
    """One expert on one token: (D,) -> (D,)."""
    if activation == "gelu":
        inner = w13 @ token
        return w2 @ (0.5 * inner * (1 + torch.erf(inner / math.sqrt(2))))
    hidden = w2.shape[1]
    gate = w13[:hidden] @ token
    return w2 @ (gate * torch.sigmoid(gate) * (w13[hidden:] @ token))


def reference(layer, x, capacity=None):
    """The output (N, D) for tokens x (N, D): loops over tokens and experts, in float64, from the definition."""
    w = {name: value.detach().double() for name, value in [*layer.named_parameters(), *layer.named_buffers()]}
    config, taken, outputs = layer.config, [0] * layer.config.num_experts, []
    for token in x.double():
        logits = w["router.weight"] @ token
        sigmoid = config.router.get("scores") == "sigmoid"
        s = 1 / (1 + torch.exp(-logits)) if sigmoid else torch.exp(logits) / torch.exp(logits).sum()
        bias = w.get("expert_bias", torch.zeros(config.num_experts, dtype=torch.float64))
        chosen = sorted(range(config.num_experts), key=lambda e: -float(s[e] + bias[e]))[: config.top_k]
        total = s[chosen].sum() if config.top_k > 1 else 1.0
        y = torch.zeros_like(token)
        for e in chosen:
            taken[e] += 1
            if capacity is None or taken[e] <= capacity:
                y = y + s[e] / total * expert(token, w["w13"][e], w["w2"][e], config.activation)
        if config.shared_dim:
            y = y + expert(token, w["shared_w13"], w["shared_w2"], config.activation)
        outputs.append(y)
    return torch.stack(outputs)


@given(
    experts=st.integers(2, 6),
    top_k=st.integers(1, 4),
    tokens=st.integers(1, 24),
    activation=st.sampled_from(["swiglu", "gelu"]),
    scores=st.sampled_from(["softmax", "sigmoid"]),
    shared=st.sampled_from([0, 8]),
    balance=st.sampled_from(["bias", "switch", "none"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_fast_is_the_definition(make_layer, experts, top_k, tokens, activation, scores, shared, balance, seed):
    layer = make_layer(
        num_experts=experts,
        top_k=min(top_k, experts),
        activation=activation,
        shared_dim=shared,
        balance=balance,
        router={"name": "topk", "scores": scores},
        seed=seed,
    ).double()
    x = torch.randn(2, tokens, 32, dtype=torch.float64)
    expected = reference(layer, x.flatten(0, 1))
    for train in (False, True):
        torch.testing.assert_close(run(layer, x, train=train)[0].flatten(0, 1), expected, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(run(layer, x)[0].flatten(0, 1), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("factor", [None, 0.5])
def test_gradients_are_the_definitions(make_layer, activation, factor):
    layer = make_layer(activation=activation, shared_dim=8, capacity_factor=factor).double().train()
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(1, 5, 32, dtype=torch.float64, requires_grad=True)

    def call(x, *weights):
        ctx = Context(torch.arange(5)[None])
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x, ctx))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()), fast_mode=True)


@given(factor=st.sampled_from([0.1, 0.5, 1.0, 1.3]), tokens=st.integers(1, 30), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_capacity_turns_the_last_away_in_training_alone(make_layer, factor, tokens, seed):
    layer = make_layer(capacity_factor=factor, seed=seed).double()
    x = torch.randn(1, tokens, 32, dtype=torch.float64)
    limit = max(1, math.ceil(factor * tokens * 2 / 5))
    y, ctx = run(layer, x, train=True)
    torch.testing.assert_close(y[0], reference(layer, x[0], limit), atol=1e-9, rtol=1e-9)
    load = ctx.metrics["moe/load/0"] * 2 * tokens
    lost = (load - limit).clamp_min(0).sum() / (2 * tokens)
    assert ctx.metrics["moe/dropped/0"].item() == pytest.approx(lost.item(), abs=1e-6)
    y, ctx = run(layer, x)
    torch.testing.assert_close(y[0], reference(layer, x[0]), atol=1e-9, rtol=1e-9)
    assert "moe/dropped/0" not in ctx.metrics


def test_padding_takes_no_capacity(make_layer):
    layer = make_layer(capacity_factor=0.8).double()
    x = torch.randn(1, 9, 32, dtype=torch.float64)
    alone, told = run(layer, x, train=True)
    wide = torch.cat([x[:, :1].expand(1, 6, 32), x, x], 1)
    segments = torch.tensor([[0] * 6 + [1] * 9 + [0] * 9])
    among, ctx = run(layer, wide, segments, train=True)
    torch.testing.assert_close(among[:, 6:15], alone)
    torch.testing.assert_close(ctx.metrics["moe/dropped/0"], told.metrics["moe/dropped/0"])
    assert told.metrics["moe/dropped/0"] > 0


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_the_output_alone_moves_the_router(make_layer, top_k, scores):
    layer = make_layer(top_k=top_k, stir=False, z_loss_weight=0, router={"name": "topk", "scores": scores})
    y, ctx = run(layer, torch.randn(2, 9, 32), train=True)
    assert not ctx.losses
    y.square().sum().backward()
    assert layer.router.weight.grad.abs().max() > 0


def test_the_router_is_float32_under_autocast(make_layer):
    layer = make_layer()
    x = torch.randn(2, 40, 32)
    seen = []
    layer.router.register_forward_hook(lambda module, arguments, routing: seen.append(routing))
    run(layer, x)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = run(layer, x)
    assert y.dtype == torch.float32
    assert torch.equal(seen[0].logits, seen[1].logits)
    assert torch.equal(seen[0].experts, seen[1].experts)


def test_an_expert_without_tokens(make_layer):
    layer = make_layer(num_experts=4)
    layer.expert_bias.copy_(torch.tensor([0.0, 0.0, -5.0, -5.0]))
    y, ctx = run(layer, torch.randn(2, 5, 32), train=True)
    y.square().sum().backward()
    assert ctx.metrics["moe/load/0"][2:].sum() == 0
    assert layer.w13.grad[2:].abs().max() == 0
    assert torch.isfinite(layer.w13.grad).all()


def test_no_tokens_at_all(make_layer):
    assert run(make_layer(capacity_factor=1.0), torch.zeros(1, 0, 32), train=True)[0].shape == (1, 0, 32)


def test_default_width_has_the_active_size_of_the_dense_layer(dims):
    for activation, matrices in (("swiglu", 3), ("gelu", 2)):
        wide = expert_width(MoEConfig(activation=activation), dims)
        assert abs(matrices * 2 * wide - 3 * dims.ffn_dim) <= matrices * 2 * 8, activation
    assert expert_width(MoEConfig(expert_dim=7), dims) == 7


def test_flops_count_what_runs(make_layer):
    d, hidden = 32, 20
    layer = make_layer(num_experts=8, expert_dim=hidden, shared_dim=12)
    assert layer.flops_per_token(1) == 2 * (8 * d + 2 * (3 * d * hidden + d) + 3 * d * 12)
    hashed = make_layer(num_experts=8, expert_dim=hidden, activation="gelu", router={"name": "hash"})
    assert hashed.flops_per_token(1) == 2 * 2 * (2 * d * hidden + d)


def test_bad_configurations():
    with pytest.raises(ValueError, match="top_k = 9"):
        MoEConfig(top_k=9)
    with pytest.raises(ValueError, match="capacity_factor"):
        MoEConfig(capacity_factor=0)


def test_what_it_reports(make_layer):
    x = torch.randn(2, 6, 32)

    def names(**fields):
        _, ctx = run(make_layer(**fields), x, train=True)
        return set(ctx.losses), {name.rsplit("/", 1)[0] for name in ctx.metrics}

    always = {"moe/load", "moe/mutual_information", "moe/router_entropy"}
    assert names() == ({"moe/z"}, always)
    assert names(balance="switch") == ({"moe/z", "moe/balance"}, always)
    assert names(balance="none", z_loss_weight=0, capacity_factor=1.0) == (set(), always | {"moe/dropped"})
