"""The collaborative experts against the slow definition, and the properties that the definition promises."""

import importlib.util
from dataclasses import replace
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

CONTEXTS, FUSIONS = ("none", "low_rank", "full", "autonomy"), ("sum", "attend", "chain")
MODES = [(context, fusion) for context in CONTEXTS for fusion in FUSIONS]


def run(layer, x, segment_ids=None, *, train=False):
    ctx = Context(torch.arange(x.shape[1]).expand(x.shape[:2]), segment_ids)
    layer.train(train)
    return layer(x, ctx), ctx


@pytest.mark.parametrize(("context", "fusion"), MODES)
@given(
    experts=st.integers(2, 6),
    each=st.integers(1, 3),
    rounds=st.integers(1, 2),
    tokens=st.integers(1, 24),
    heads=st.sampled_from([1, 2]),
    mediator=st.booleans(),
    shared=st.sampled_from([0, 8]),
    balance=st.sampled_from(["bias", "switch", "none"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=12, deadline=None)
def test_fast_is_the_definition(
    make_layer, context, fusion, experts, each, rounds, tokens, heads, mediator, shared, balance, seed
):
    fields = {"mediator": mediator and fusion == "attend", "rounds": rounds, "autonomy_rank": 6}
    top_k = min(each, experts // rounds) * rounds
    fields |= {"num_experts": experts, "top_k": top_k, "context": context, "fusion": fusion, "context_heads": heads}
    layer = make_layer(shared_dim=shared, balance=balance, seed=seed, **fields).double()
    x = torch.randn(2, tokens, 32, dtype=torch.float64)
    expected, _ = reference(layer, x.flatten(0, 1))
    for train in (False, True):
        assert torch.allclose(run(layer, x, train=train)[0].flatten(0, 1), expected, atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        assert torch.allclose(run(layer, x)[0].flatten(0, 1), expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("context", "fusion"), MODES)
def test_in_float32_within_1e5(make_layer, context, fusion):
    layer = make_layer(context=context, fusion=fusion, stir=False)
    with torch.no_grad():
        for weight in layer.parameters():
            weight += 0.05 * torch.randn_like(weight)
    x = torch.randn(2, 40, 32)
    expected, _ = reference(layer, x.flatten(0, 1))
    assert (run(layer, x)[0].flatten(0, 1) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("context", "fusion"), MODES)
@pytest.mark.parametrize(("heads", "tokens"), [(1, 4), (1, 9), (2, 4)])  # 9 tokens of 5 experts: projections are folded
def test_gradients_are_the_definitions(make_layer, context, fusion, heads, tokens):
    if (heads, tokens) != (1, 4) and context != "full":
        pytest.skip("there is one way to compute it")
    layer = make_layer(context=context, fusion=fusion, context_heads=heads, mediator=fusion == "attend").double()
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(1, tokens, 32, dtype=torch.float64, requires_grad=True)

    def call(x, *weights):
        ctx = Context(torch.arange(tokens)[None])
        return torch.func.functional_call(layer.eval(), dict(zip(names, weights, strict=True)), (x, ctx))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()), fast_mode=True)


def test_full_context_is_multi_head_attention(make_layer):
    """Against torch's own attention, forward and backward, folded and not, the outputs' gradient wanted or not."""
    from luna_plugin_moc.meeting import confer

    for tokens, heads, learn in [(300, 1, True), (300, 1, False), (2, 1, True), (300, 2, True), (300, 2, False)]:
        d = 16
        theirs = torch.nn.MultiheadAttention(d, heads, bias=False, batch_first=True).double()
        outputs = torch.randn(tokens, 4, d, dtype=torch.float64, requires_grad=True)
        score = torch.randn(d, dtype=torch.float64, requires_grad=True)
        weights = (theirs.in_proj_weight, theirs.out_proj.weight, score)
        heard = outputs + theirs(outputs, outputs, outputs)[0]
        expected = heard * torch.rsqrt(heard.square().mean(-1, keepdim=True) + 1e-5) @ score
        actual, attention = confer(outputs if learn else outputs.detach(), *weights, heads, 1e-5)
        assert torch.allclose(actual, expected, atol=1e-10)
        assert torch.allclose(attention.sum(-1), torch.ones(()).double())
        pull = torch.randn_like(expected)
        wanted = (outputs, *weights) if learn else weights
        both = [torch.autograd.grad((scores * pull).sum(), wanted) for scores in (actual, expected)]
        for mine, other in zip(*both, strict=True):
            assert torch.allclose(mine, other, atol=1e-8)


@pytest.mark.parametrize("fusion", ["sum", "attend"])
def test_chosen_gradient_leaves_out_the_meeting_alone(make_layer, fusion):
    whole = make_layer(context="full", fusion=fusion).double()
    lean = make_layer(context="full", fusion=fusion, full_gradient="chosen").double()
    lean.load_state_dict(whole.state_dict())
    x = torch.randn(1, 9, 32, dtype=torch.float64)
    outputs, grads = [], []
    for layer in (whole, lean):
        y = run(layer, x)[0]
        y.square().sum().backward()
        outputs.append(y)
        grads.append({name: weight.grad for name, weight in layer.named_parameters()})
    assert torch.allclose(*outputs, atol=1e-12)
    for name in grads[0]:  # what is not an expert hears the same
        same = torch.allclose(grads[0][name], grads[1][name], atol=1e-9)
        assert same == (name not in ("w13", "w2")), name
    # an expert learns what it would if the weights of the answer were given numbers
    flat = x[0]
    said = run_experts(lean, flat)
    with torch.no_grad():
        routing = lean.router(flat, Context(torch.arange(9)[None]), lean.expert_bias, lean.context(said)[0])
    index = torch.arange(9)[:, None] * 5 + routing.experts
    y = (routing.weights.unsqueeze(-1) * said.flatten(0, 1)[index]).sum(1)
    if lean.fusion is not None:
        y = y + lean.fusion(said.flatten(0, 1), routing.weights, index)[0]
    expected = torch.autograd.grad(y.square().sum(), (lean.w13, lean.w2))
    for name, grad in zip(("w13", "w2"), expected, strict=True):
        assert torch.allclose(grads[1][name], grad, atol=1e-9), name


def run_experts(layer, x):
    """All experts with ordinary operations: x (N, D) -> (N, E, D)."""
    gate, value = torch.einsum("efd,nd->nef", layer.w13, x).chunk(2, dim=-1)
    return torch.einsum("edf,nef->ned", layer.w2, torch.nn.functional.silu(gate) * value)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("mediator", [False, True])
def test_at_birth_it_is_the_plain_mixture_to_the_bit(make_layer, top_k, mediator):
    fancy = make_layer(stir=False, top_k=top_k, mediator=mediator)
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


def test_a_chain_of_one_round_is_the_plain_mixture_to_the_bit(make_layer):
    chain, plain = (make_layer(context="none", fusion=fusion, rounds=1) for fusion in ("chain", "sum"))
    plain.load_state_dict(chain.state_dict())
    x = torch.randn(3, 11, 32)
    assert torch.equal(run(chain, x)[0], run(plain, x)[0])


def test_rounds_of_a_chain_choose_on_their_own(make_layer):
    layer = make_layer(context="none", fusion="chain", top_k=2)
    x = torch.randn(1, 64, 32)
    run(layer, x, train=True)[0].square().sum().backward()
    assert layer.later_routers[0].weight.grad.abs().max() > 0
    assert not torch.equal(layer.later_routers[0].weight, layer.router.weight)
    assert layer.tokens_per_expert.sum() == 2 * 64
    before = run(layer, x)[0]
    with torch.no_grad():
        layer.later_routers[0].weight.neg_()
    assert not torch.allclose(run(layer, x)[0], before)


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
    if context == "autonomy":
        assert layer.router is None
        assert layer.context.down.grad.abs().max() > 0
        return
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
            return flat @ module.router.weight.t() + module.context(run_experts(module, flat))[0]
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


def test_permuting_autonomous_experts_changes_nothing(make_layer):
    layer, other = (make_layer(context="autonomy", balance="none").double() for _ in range(2))
    order = torch.tensor([3, 0, 4, 1, 2])
    names = ("w3", "w2", "context.down", "context.up")
    state = layer.state_dict()
    other.load_state_dict({name: value[order] if name in names else value for name, value in state.items()})
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    assert torch.allclose(run(other, x)[0], run(layer, x)[0], atol=1e-12)
    flat = x.flatten(0, 1)
    assert torch.allclose(other.context(flat)[0], layer.context(flat)[0][:, order], atol=1e-12)


def test_a_token_of_zeros_has_a_gradient(make_layer):
    layer = make_layer(context="autonomy")
    x = torch.zeros(1, 3, 32, requires_grad=True)
    run(layer, x, train=True)[0].sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(weight.grad).all() for weight in layer.parameters() if weight.grad is not None)


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
        assert layer.w2.grad[2:].abs().max() == 0
    assert torch.isfinite(layer.w2.grad).all()


@pytest.mark.parametrize("context", CONTEXTS)
def test_no_tokens_at_all(make_layer, context):
    y, _ = run(make_layer(context=context), torch.zeros(1, 0, 32))
    assert y.shape == (1, 0, 32)


def test_default_width_has_the_active_size_of_the_dense_layer(make_layer):
    layer = make_layer()
    assert layer.w2.shape[2] == 32  # 48 / 2 = 24, to the next multiple of 16
    wide = make_layer(top_k=3, expert_dim=7)
    assert wide.w2.shape[2] == 7


@pytest.mark.parametrize(
    ("d_model", "heads", "rank", "width"), [(128, 1, 16, 16), (256, 3, 18, 32), (1024, 2, 64, 128)]
)
def test_meeting_and_talk_grow_with_the_width(make_layer, dims, d_model, heads, rank, width):
    wide = replace(dims, d_model=d_model)
    layer = make_layer(stir=False, dims=wide, num_experts=8, probe_rank=None, fusion_dim=None, context_heads=heads)
    assert layer.context.probe_bias.shape == (8, rank)
    assert layer.fusion.down.shape == (width, d_model)


def test_flops_are_those_of_the_matrices(make_layer):
    """Counted from the shapes: what each mode runs per token."""

    def of(**fields):
        return make_layer(num_experts=8, expert_dim=24, **fields).flops_per_token(1)

    d, hidden = 32, 24
    plain = of(context="none", fusion="sum")
    assert plain == 2 * (8 * d + 2 * 3 * d * hidden + 2 * d)
    assert of(context="none", fusion="chain") == plain + 2 * 8 * d  # the same experts, one more router
    meeting = 8 * (2 * d * d + 2 * 8 * d + 2 * d)
    assert of(context="full", fusion="sum") == 2 * (8 * d + 8 * 3 * d * hidden + 2 * d + meeting)
    gates = 8 * 8 * (d + 1) + 2 * hidden * 8
    assert of(context="autonomy", fusion="sum", autonomy_rank=8) == 2 * (gates + 2 * 2 * hidden * d + 2 * d)
    assert plain < of(context="low_rank", fusion="sum") < of(context="low_rank") < of(mediator=True) < 2 * plain


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"top_k": 9}, "top_k = 9"),
        ({"context_heads": 3, "probe_rank": 32}, "probe_rank = 32"),
        ({"fusion": "chain", "top_k": 3}, "rounds = 2"),
        ({"fusion": "sum", "mediator": True}, "mediator"),
        ({"context": "autonomy", "router": {"name": "topk"}}, "router"),
        ({"router": None}, "router"),
    ],
)
def test_bad_configurations(make_layer, fields, words):
    from luna_plugin_moc.config import MoCConfig

    with pytest.raises(ValueError, match=words):
        MoCConfig(**fields)


def test_heads_that_do_not_divide_the_width(make_layer):
    with pytest.raises(ConfigError) as caught:
        make_layer(context="full", context_heads=5)
    assert isinstance(caught.value, LunaError)
    assert caught.value.hint
