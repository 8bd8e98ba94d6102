"""The routers against their formulas, in the mixture and in the collaborative experts."""

import pytest
import torch
from luna_plugin_moe.emotional import EMOTION, LABEL
from luna_plugin_moe.emotions import EMOTIONS, ENGLISH
from luna_plugin_moe.router import _mix
from torch.nn import functional as F

from luna_kernel.contracts.layers import Context

C = len(EMOTIONS)


def ctx_of(x, **fields):
    return Context(torch.arange(x.shape[1]).expand(x.shape[:2]), **fields)


def emotional(make_layer, **fields):
    return make_layer(router={"name": "emotional", "rank": 3, **fields})


def test_eleven_dimensions_in_both_languages():
    assert len(EMOTIONS) == len(ENGLISH) == len({*EMOTIONS, *ENGLISH}) // 2 == 11


def test_emotional_is_its_formula(make_layer):
    router = emotional(make_layer).double().router
    x = torch.randn(2, 3, 32, dtype=torch.float64)
    e = torch.randn(2, C)
    found = router(x.flatten(0, 1), ctx_of(x, condition={EMOTION: e})).logits
    for n, token in enumerate(x.flatten(0, 1)):
        mood = e[n // 3].double()
        expected = (
            router.weight @ token + router.direct @ mood + router.joint @ ((router.text @ token) * (router.mood @ mood))
        )
        torch.testing.assert_close(found[n], expected)


def test_without_a_signal_it_is_the_linear_router_to_the_bit(make_layer):
    plain, moved = make_layer(), emotional(make_layer)
    moved.load_state_dict({**moved.state_dict(), **plain.state_dict()})
    x = torch.randn(2, 7, 32)
    expected = plain(x, ctx_of(x))
    assert torch.equal(moved(x, ctx_of(x)), expected)
    assert torch.equal(moved(x, ctx_of(x, condition={EMOTION: torch.zeros(2, C)})), expected)
    assert not torch.equal(moved(x, ctx_of(x, condition={EMOTION: torch.ones(2, C)})), expected)


def test_at_birth_no_emotion_moves_it(make_layer):
    newborn = make_layer(stir=False, router={"name": "emotional", "head": True})
    plain = make_layer(stir=False)
    plain.load_state_dict({name: value for name, value in newborn.state_dict().items() if name in plain.state_dict()})
    x = torch.randn(2, 7, 32)
    assert torch.equal(newborn(x, ctx_of(x, condition={EMOTION: torch.randn(2, C)})), plain(x, ctx_of(x)))


def test_routing_changes_with_the_signal_and_only_where_it_is(make_layer):
    """do(e): the row whose emotion is set goes to other experts, the row beside it does not move."""
    layer = emotional(make_layer)
    x = torch.randn(2, 200, 32)
    seen = []
    layer.router.register_forward_hook(lambda module, arguments, routing: seen.append(routing.experts.view(2, 200, 2)))
    e = torch.zeros(2, C)
    layer(x, ctx_of(x, condition={EMOTION: e}))
    e = e.clone()
    e[1, EMOTIONS.index("alegria")] = 3.0
    layer(x, ctx_of(x, condition={EMOTION: e}))
    assert torch.equal(seen[0][0], seen[1][0])
    before, after = (torch.bincount(s[1].flatten(), minlength=5).float() / 400 for s in seen)
    middle = (before + after) / 2
    divergence = (torch.xlogy(before, before / middle) + torch.xlogy(after, after / middle)).sum() / 2
    assert divergence > 0.01


def test_the_output_alone_teaches_the_emotion(make_layer):
    layer = make_layer(stir=False, router={"name": "emotional"}).train()
    x = torch.randn(4, 8, 32)
    e = torch.rand(4, C)
    layer(x, ctx_of(x, condition={EMOTION: e})).square().sum().backward()
    assert layer.router.direct.grad.abs().max() > 0
    assert layer.router.mood.grad.abs().max() > 0


def test_the_head_learns_from_labels_alone(make_layer):
    layer = emotional(make_layer, head=True).train()
    x = torch.randn(4, 8, 32)
    ctx = ctx_of(x)
    layer(x, ctx).square().sum().backward()
    assert layer.router.head.grad is None, "the language's loss must not bend what the head means"
    assert "emotional/head" not in ctx.losses
    label = torch.zeros(4, C)
    label[0, 2] = label[1, 5] = 1
    segments = torch.ones(4, 8, dtype=torch.int64)
    segments[1, 3:] = 0
    ctx = ctx_of(x, segment_ids=segments, condition={LABEL: label})
    layer(x, ctx)
    raw = F.linear(x, layer.router.head, layer.router.head_bias)
    kept = [(raw[0, t], label[0]) for t in range(8)] + [(raw[1, t], label[1]) for t in range(3)]
    expected = torch.stack([F.binary_cross_entropy_with_logits(r, t) for r, t in kept]).mean()
    torch.testing.assert_close(ctx.losses["emotional/head"], 0.1 * expected)
    ctx.losses["emotional/head"].backward()
    assert layer.router.head.grad.abs().max() > 0
    assert "emotional/head_error/0" in ctx.metrics


def test_the_head_speaks_where_nothing_is_given(make_layer):
    layer = emotional(make_layer, head=True)
    x = torch.randn(2, 5, 32)
    router, flat = layer.router, x.flatten(0, 1)
    foretold = torch.sigmoid(F.linear(flat, router.head, router.head_bias))
    torch.testing.assert_close(router.emotion(flat, ctx_of(x)), foretold)
    given = torch.zeros(2, C)
    given[1, 0] = 0.5
    mixed = router.emotion(flat, ctx_of(x, condition={EMOTION: given}))
    torch.testing.assert_close(mixed[:5], foretold[:5])
    assert torch.equal(mixed[5:], given[1].expand(5, C))


def test_the_head_learns_the_labels(make_layer):
    """Tokens of two kinds, each with its emotion: the head tells them apart."""
    layer = make_layer(stir=False, router={"name": "emotional", "head": True, "head_weight": 1.0}).train()
    kinds = torch.randn(2, 32)
    label = torch.zeros(2, C)
    label[0, 0] = label[1, 4] = 1
    optimizer = torch.optim.Adam([layer.router.head, layer.router.head_bias], lr=0.05)
    for _ in range(60):
        x = kinds[:, None] + 0.3 * torch.randn(2, 6, 32)
        ctx = ctx_of(x, condition={LABEL: label})
        layer(x, ctx)
        optimizer.zero_grad()
        ctx.losses["emotional/head"].backward()
        optimizer.step()
    assert ctx.metrics["emotional/head_error/0"] < 0.05


def test_hash_goes_by_the_id_alone(make_layer):
    layer = make_layer(num_experts=8, top_k=3, router={"name": "hash"})
    tokens = torch.randint(0, 50, (2, 9))
    x = torch.randn(2, 9, 32)
    first = layer.router(x.flatten(0, 1), ctx_of(x, tokens=tokens))
    second = layer.router(torch.randn(18, 32), ctx_of(x, tokens=tokens), torch.randn(8), torch.randn(18, 8))
    assert torch.equal(first.experts, second.experts)
    assert torch.equal(first.weights, torch.full((18, 3), 1 / 3))
    assert first.logits is None
    assert torch.allclose(first.probabilities.sum(-1), torch.ones(18))
    by_id = {}
    for token, experts in zip(tokens.flatten().tolist(), first.experts.tolist(), strict=True):
        assert by_id.setdefault(token, experts) == experts
        assert len(set(experts)) == 3
    with pytest.raises(ValueError, match="no tokens"):
        layer.router(x.flatten(0, 1), ctx_of(x))


def test_hash_spreads_ids_evenly_and_by_seed(make_layer):
    ids = torch.arange(8000).view(1, -1)
    x = torch.zeros(8000, 32)
    counts = {}
    for seed in (0, 1):
        router = make_layer(num_experts=8, top_k=2, router={"name": "hash", "seed": seed}).router
        experts = router(x, Context(ids, tokens=ids)).experts
        counts[seed] = experts
        load = torch.bincount(experts.flatten(), minlength=8).float()
        assert (load / load.mean() - 1).abs().max() < 0.1
    assert (counts[0] == counts[1]).all(-1).float().mean() < 0.2


def test_mix_is_the_same_in_plain_integers():
    def plain(value, seed):
        low = 0xFFFFFFFF
        value = (value + seed * 0x9E3779B1) & low
        for factor in (0x85EBCA6B, 0xC2B2AE35):
            value = ((value ^ (value >> 16)) * factor) & low
        return value ^ (value >> 16)

    values = [0, 1, 7, 2**31, 2**32 - 1, 2**40 + 3]
    for seed in (0, 1, 2**32 - 1):
        assert _mix(torch.tensor(values), seed).tolist() == [plain(v, seed) for v in values]


@pytest.mark.parametrize("router", [{"name": "topk", "scores": "sigmoid"}, {"name": "emotional"}, {"name": "hash"}])
def test_every_router_works_in_the_collaborative_experts(router, dims):
    pytest.importorskip("luna_plugin_moc")
    from luna_kernel.model.parts import make_parts
    from luna_kernel.plugins import load_plugins

    node = {"name": "moc", "num_experts": 4, "router": router}
    torch.manual_seed(0)
    parts = make_parts("ffn", "blocks.0.ffn", node, dims, load_plugins("moc").registry)
    assert parts[1].place == "blocks.0.ffn.router"
    x = torch.randn(2, 6, 32)
    ctx = ctx_of(x, tokens=torch.randint(0, 64, (2, 6)), condition={EMOTION: torch.rand(2, C)})
    y = parts[0].module.train()(x, ctx)
    (y.square().sum() + sum(ctx.losses.values())).backward()
    assert torch.isfinite(y).all()
