"""Losses, metrics, and the bias that evens out the load."""

import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint


def test_what_each_mode_emits(make_layer, context):
    x = torch.randn(2, 6, 32)

    def names(**fields):
        ctx = context(2, 6)
        make_layer(**fields).train()(x, ctx)
        return set(ctx.losses), {name.rsplit("/", 1)[0] for name in ctx.metrics}

    always = {"moc/load", "moc/mutual_information", "moc/router_entropy"}
    meetings = {"moc/context_diversity", "moc/fusion_diversity"}
    assert names() == ({"moc/z", "moc/calibration"}, always | meetings | {"moc/calibration_r2"})
    assert names(balance="switch", context="full") == ({"moc/z", "moc/balance"}, always | meetings)
    assert names(balance="none", z_loss_weight=0, calibration_weight=0) == (set(), always | meetings)
    assert names(context="autonomy", fusion="chain") == ({"moc/z"}, always)


def test_diversity_is_mutual_information():
    """Zero for averaging and for always the same one, ln S for each token its own; padding does not count."""
    from luna_plugin_moc.context import diversity

    even = torch.full((8, 1, 2, 4), 0.25)
    same = torch.eye(4)[torch.zeros(8, 1, 2, dtype=torch.int64)]
    own = torch.eye(4)[torch.arange(8) % 4].view(8, 1, 1, 4).expand(8, 1, 2, 4)
    assert diversity(even, None).item() == pytest.approx(0, abs=1e-6)
    assert diversity(same, None).item() == pytest.approx(0, abs=1e-6)
    assert diversity(own, None).item() == pytest.approx(math.log(4), abs=1e-6)
    assert diversity(own, torch.arange(8) % 4 < 2).item() == pytest.approx(math.log(2), abs=1e-6)


def test_all_rounds_of_a_chain_are_reported_together(make_layer, context):
    layer = make_layer(fusion="chain", top_k=4, rounds=2).train()
    ctx = context(2, 6)
    layer(torch.randn(2, 6, 32), ctx)
    assert ctx.metrics["moc/load/0"].sum().item() == pytest.approx(1)
    assert layer.tokens_per_expert.sum() == 2 * 6 * 4


def test_r2_of_the_probes_on_held_out_tokens(make_layer, context):
    """What evaluation reports is R² by its definition, over the chosen experts, padding left out."""
    layer = make_layer().eval()
    x, segments = torch.randn(1, 30, 32), torch.tensor([[0] * 4 + [1] * 26])
    ctx = context(1, 30, segments)
    layer(x, ctx)
    flat = x[0, 4:]
    with torch.no_grad():
        scores, probes, _ = layer.context(flat)
        experts = layer.router(flat, context(1, 26), layer.expert_bias, scores).experts
        gate, value = torch.einsum("efd,nd->nef", layer.w13, flat).chunk(2, dim=-1)
        said = torch.einsum("edf,nef->ned", layer.w2, torch.nn.functional.silu(gate) * value)
        target = (said @ layer.context.sketch.t()).gather(1, experts[..., None].expand(-1, -1, 8)).flatten(0, 1)
        guess = probes.gather(1, experts[..., None].expand(-1, -1, 8)).flatten(0, 1)
    expected = 1 - (guess - target).square().sum() / (target - target.mean(0)).square().sum()
    assert ctx.metrics["moc/calibration_r2/0"].item() == pytest.approx(expected.item(), abs=1e-4)


def test_weights_scale_their_losses(make_layer, context):
    x = torch.randn(2, 6, 32)

    def losses(**fields):
        ctx = context(2, 6)
        make_layer(balance="switch", **fields).train()(x, ctx)
        return ctx.losses

    once = losses()
    twice = losses(balance_weight=0.02, z_loss_weight=2e-3, calibration_weight=0.02)
    for name, value in once.items():
        assert twice[name].item() == pytest.approx(2 * value.item(), rel=1e-4)


def test_evaluation_has_metrics_and_no_losses_and_decoding_neither(make_layer, context):
    layer = make_layer(balance="switch").eval()
    ctx = context(2, 6)
    layer(torch.randn(2, 6, 32), ctx)
    assert not ctx.losses
    assert "moc/calibration_r2/0" in ctx.metrics
    ctx = context(2, 1)
    layer(torch.randn(2, 1, 32), ctx)
    assert not ctx.metrics


def test_bias_nudging_evens_out_the_load(make_layer, context):
    layer = make_layer(num_experts=4, bias_rate=0.02, stir=False)
    with torch.no_grad():
        layer.router.weight[0] += 0.3  # tokens below share a direction, which expert 0 likes
    x = torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(0)) + 0.5

    def load():
        ctx = context(4, 64)
        layer.train()(x, ctx)
        layer.after_step()
        return ctx.metrics["moc/load/0"]

    first = load()
    for _ in range(60):
        last = load()
    assert first.max() > 0.45
    assert last.max() < 0.33


def test_one_nudge_per_step_over_all_micro_batches(make_layer, context):
    layer = make_layer(num_experts=4, stir=False).train()
    for _ in range(3):
        layer(torch.randn(1, 50, 32), context(1, 50))
    assert layer.tokens_per_expert.sum() == 3 * 50 * 2
    expected = 1e-3 * torch.sign(layer.tokens_per_expert.double().mean() - layer.tokens_per_expert)
    layer.after_step()
    assert torch.allclose(layer.expert_bias, expected.float())
    assert layer.tokens_per_expert is None
    layer.after_step()  # nothing was seen: nothing moves
    assert torch.allclose(layer.expert_bias, expected.float())
    assert "expert_bias" in layer.state_dict()
    assert "tokens_per_expert" not in layer.state_dict()


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_counts_once(make_layer, context, reentrant):
    layer = make_layer().train()
    x = torch.randn(2, 10, 32, requires_grad=True)
    y = checkpoint(lambda value: layer(value, context(2, 10)), x, use_reentrant=reentrant)
    y.sum().backward()
    assert layer.tokens_per_expert.sum() == 2 * 10 * 2


def test_evaluation_counts_nothing(make_layer, context):
    layer = make_layer().eval()
    layer(torch.randn(2, 10, 32), context(2, 10))
    assert layer.tokens_per_expert is None


def test_padding_counts_nowhere(make_layer, context):
    layer = make_layer(balance="bias").train()
    x = torch.randn(2, 6, 32)
    alone = context(2, 6)
    layer(x, alone)
    counted = layer.tokens_per_expert.clone()
    layer.tokens_per_expert = None
    padded = context(2, 9, torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0, 0]] * 2))
    noise = 10 * torch.randn(2, 9, 32)
    noise[:, 1:7] = x
    layer(noise, padded)
    assert torch.equal(layer.tokens_per_expert, counted)
    for name, value in alone.losses.items():
        assert torch.allclose(padded.losses[name], value, rtol=1e-4), name
    for name, value in alone.metrics.items():
        assert torch.allclose(padded.metrics[name], value, atol=1e-4), name
    nothing = context(2, 6, torch.zeros(2, 6, dtype=torch.int64))
    y = layer(x, nothing)
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(value).all() for value in (*nothing.losses.values(), *nothing.metrics.values()))


def test_calibration_teaches_the_probes(make_layer, context):
    layer = make_layer(stir=False, top_k=5, calibration_weight=1.0, z_loss_weight=0).train()
    with torch.no_grad():
        layer.w13.normal_(std=0.2)
        layer.w2.normal_(std=0.2)
    probes = [layer.context.down, layer.context.probe, layer.context.probe_bias]
    optimizer = torch.optim.Adam(probes, lr=1e-2)
    x = torch.randn(8, 32, 32)
    fits = []
    for _ in range(150):
        ctx = context(8, 32)
        layer(x, ctx)
        ctx.losses["moc/calibration"].backward()
        assert layer.w2.grad is None  # the experts do not bend to the probes
        optimizer.step()
        optimizer.zero_grad()
        fits.append(ctx.metrics["moc/calibration_r2/0"].item())
    assert fits[-1] > fits[0] + 0.1
    assert fits[-1] <= 1


def test_calibration_does_not_grow_with_the_experts(make_layer, context):
    """A squared error would: in training it came to outweigh the language's loss."""
    layer = make_layer(calibration_weight=1.0).train()
    x = torch.randn(2, 16, 32)
    for size in (1e-3, 1.0, 1e3):
        with torch.no_grad():
            layer.w2.normal_(std=size)
        ctx = context(2, 16)
        layer(x, ctx)
        assert 0 < ctx.losses["moc/calibration"].item() <= 2
