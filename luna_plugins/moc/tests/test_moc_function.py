"""The collaborative experts against the slow definition, and the properties that the definition promises."""

import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import ConfigError, LunaError
from luna_kernel.contracts.layers import Context

_spec = importlib.util.spec_from_file_location("moc_reference", Path(__file__).with_name("reference.py"))
reference_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference_module)
reference = reference_module.reference

CONTEXTS, FUSIONS = ("none", "low_rank", "full"), ("sum", "attend")
MODES = [(context, fusion) for context in CONTEXTS for fusion in FUSIONS]


def run(layer, x, segment_ids=None, *, train=False):
    ctx = Context(torch.arange(x.shape[1]).expand(x.shape[:2]), segment_ids)
    layer.train(train)
    return layer(x, ctx), ctx


@pytest.mark.parametrize(("context", "fusion"), MODES)
@given(
    experts=st.integers(2, 6),
    top_k=st.integers(1, 4),
    tokens=st.integers(1, 24),
    heads=st.sampled_from([1, 2]),
    shared=st.sampled_from([0, 8]),
    balance=st.sampled_from(["bias", "switch", "none"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=12, deadline=None)
def test_fast_is_the_definition(make_layer, context, fusion, experts, top_k, tokens, heads, shared, balance, seed):
    layer = make_layer(
        num_experts=experts,
        top_k=min(top_k, experts),
        context=context,
        fusion=fusion,
        context_heads=heads,
        shared_dim=shared,
        balance=balance,
        seed=seed,
    ).double()
    x = torch.randn(2, tokens, 32, dtype=torch.float64)
    expected, _ = reference(layer, x.flatten(0, 1))
    for train in (False, True):
        assert torch.allclose(run(layer, x, train=train)[0].flatten(0, 1), expected, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        assert torch.allclose(run(layer, x)[0].flatten(0, 1), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("context", "fusion"), MODES)
def test_gradients_are_the_definitions(make_layer, context, fusion):
    layer = make_layer(context=context, fusion=fusion).double()
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(1, 4, 32, dtype=torch.float64, requires_grad=True)

    def call(x, *weights):
        ctx = Context(torch.arange(4)[None])
        return torch.func.functional_call(layer.eval(), dict(zip(names, weights, strict=True)), (x, ctx))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()), fast_mode=True)


@pytest.mark.parametrize("top_k", [1, 2])
def test_at_birth_it_is_the_plain_mixture_to_the_bit(make_layer, top_k):
    fancy = make_layer(stir=False, top_k=top_k)
    plain = make_layer(stir=False, top_k=top_k, context="none", fusion="sum")
    missing, unexpected = plain.load_state_dict(fancy.state_dict(), strict=False)
    assert not missing
    assert {name.partition(".")[0] for name in unexpected} == {"context", "fusion"}
    x = torch.randn(3, 11, 32)
    for train in (False, True):
        assert torch.equal(run(fancy, x, train=train)[0], run(plain, x, train=train)[0])
    for low in (fancy, plain):
        low.bfloat16()
    assert torch.equal(run(fancy, x.bfloat16())[0], run(plain, x.bfloat16())[0])


def test_full_context_at_birth_is_the_plain_mixture(make_layer):
    full = make_layer(stir=False, context="full")
    alone = make_layer(stir=False, context="full")
    with torch.no_grad():  # other weights in the meeting: nothing of it may be heard yet
        alone.context.qkv.normal_()
        alone.fusion.qkv.normal_()
    plain = make_layer(stir=False, context="none", fusion="sum")
    plain.load_state_dict(full.state_dict(), strict=False)
    alone.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(3, 11, 32)
    assert torch.equal(run(full, x)[0], run(alone, x)[0])
    assert torch.allclose(run(full, x)[0], run(plain, x)[0], atol=1e-6)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_output_alone_moves_the_router(make_layer, context, top_k):
    layer = make_layer(context=context, top_k=top_k, stir=False)
    run(layer, torch.randn(2, 9, 32))[0].square().sum().backward()
    assert layer.router.weight.grad.abs().max() > 0
    if context != "none":
        assert layer.context.score.grad.abs().max() > 0


@pytest.mark.parametrize("context", ["low_rank", "full"])
def test_permuting_experts_permutes_logits(make_layer, context):
    layer = make_layer(context=context, balance="none").double()
    other = make_layer(context=context, balance="none").double()
    order = torch.tensor([3, 0, 4, 1, 2])
    state = layer.state_dict()
    for name in ("router.weight", "w13", "w2", "context.probe", "context.probe_bias"):
        if name in state:
            state[name] = state[name][order]
    other.load_state_dict(state)
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    assert torch.allclose(run(other, x)[0], run(layer, x)[0], atol=1e-12)
    flat = x.flatten(0, 1)

    def logits(module):
        if context == "full":
            return flat @ module.router.weight.t() + module.context(module._all_experts(flat))
        return flat @ module.router.weight.t() + module.context(flat)[0]

    mine, theirs = logits(layer), logits(other)
    assert torch.allclose(theirs, mine[:, order], atol=1e-12)
    # swapping what two experts compute, their rows of the router left alone, moves the scores: experts are heard
    names = ("w13", "w2") if context == "full" else ("context.probe", "context.probe_bias")
    for name in names:
        state[name] = layer.state_dict()[name][torch.tensor([1, 0, 2, 3, 4])]
    state["router.weight"] = layer.state_dict()["router.weight"]
    for name in {"context.probe", "context.probe_bias"} & set(state) - set(names):
        state[name] = layer.state_dict()[name]
    other.load_state_dict(state)
    assert (logits(other) - mine).abs().max() > 1e-2


def test_tokens_and_batches_do_not_mix(make_layer):
    for context, fusion in MODES:
        layer = make_layer(context=context, fusion=fusion)
        x = torch.randn(4, 13, 32)
        whole = run(layer, x)[0]
        alone = torch.stack([run(layer, token.view(1, 1, 32))[0].view(32) for token in x.flatten(0, 1)])
        assert torch.allclose(whole.flatten(0, 1), alone, atol=2e-5), (context, fusion)


@pytest.mark.parametrize("context", CONTEXTS)
def test_an_expert_without_tokens(make_layer, context):
    layer = make_layer(num_experts=4, context=context)
    layer.expert_bias.copy_(torch.tensor([0.0, 0.0, -5.0, -5.0]))
    y, ctx = run(layer, torch.randn(2, 5, 32), train=True)
    y.square().sum().backward()
    assert ctx.metrics["moc/load/0"][2:].sum() == 0
    if context != "full":
        assert layer.w13.grad[2:].abs().max() == 0
    assert torch.isfinite(layer.w13.grad).all()


@pytest.mark.parametrize("context", CONTEXTS)
def test_no_tokens_at_all(make_layer, context):
    y, _ = run(make_layer(context=context), torch.zeros(1, 0, 32))
    assert y.shape == (1, 0, 32)


def test_default_width_has_the_active_size_of_the_dense_layer(make_layer):
    layer = make_layer()
    assert layer.w2.shape[2] == 32  # 48 / 2 = 24, to the next multiple of 16
    wide = make_layer(top_k=3, expert_dim=7)
    assert wide.w2.shape[2] == 7


def test_flops_say_that_full_runs_all_experts(make_layer):
    sparse, full = make_layer(context="low_rank", num_experts=8), make_layer(context="full", num_experts=8)
    experts = 2 * sparse.w13[0].numel() + 2 * sparse.w2[0].numel()
    assert full.flops_per_token(1) > 8 * experts
    assert 2 * experts < sparse.flops_per_token(1) < 4 * experts


def test_bad_configurations(make_layer):
    from luna_plugin_moc.config import MoCConfig

    with pytest.raises(ValueError, match="top_k = 9"):
        MoCConfig(top_k=9)
    with pytest.raises(ValueError, match="probe_rank = 32"):
        MoCConfig(context_heads=3)
    with pytest.raises(ConfigError) as caught:
        make_layer(context="full", context_heads=5)
    assert isinstance(caught.value, LunaError)
    assert caught.value.hint
