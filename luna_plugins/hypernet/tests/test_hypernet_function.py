"""The adapters against a plain reading of their formulas, one token at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_hypernet.config import DomainConfig, HyperConfig
from luna_plugin_hypernet.domain import DomainSpecificHyperAdapter
from luna_plugin_hypernet.layer import HyperAdapter
from luna_plugin_hypernet.summary import MeanState, running_mean
from torch.nn import functional as F

from luna_kernel.contracts.layers import Context

B, T = 2, 7


def stirred(part):
    with torch.no_grad():
        for weight in part.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return part.eval()


def context(condition=None, segments=None, state=None):
    return Context(torch.arange(T).expand(B, T), segments, condition or {}, state=state)


def changed(form, x, y, c, network):
    """One token: x, y (D,), c (C,)."""
    h = F.silu(network.weight @ c)
    if hasattr(form, "gain"):
        return y * (1 + form.gain @ h) + form.shift @ h
    if hasattr(form, "gate"):
        return y + form.up @ torch.diag(form.gate @ h) @ form.down @ x
    down = sum(h[m] * form.down[:, m] for m in range(len(h)))
    up = sum(h[m] * form.up[:, :, m] for m in range(len(h)))
    return y + up @ (down @ x)


@pytest.mark.parametrize("form", ["low_rank", "bases", "film"])
@pytest.mark.parametrize("per_token", [False, True])
def test_adapter_is_its_formula(dims, form, per_token):
    torch.manual_seed(0)
    part = stirred(HyperAdapter(HyperConfig(form=form, width=5, rank=3, hidden=4), dims))
    x, y = torch.randn(2, B, T, dims.d_model).unbind()
    c = torch.randn(B, T, 5) if per_token else torch.randn(B, 5)
    with torch.no_grad():
        found = part(x, y, context({"domain": c}))
        for b in range(B):
            for i in range(T):
                want = changed(part.form, x[b, i], y[b, i], c[b, i] if per_token else c[b], part.network)
                assert torch.allclose(found[b, i], want, atol=1e-4)


def test_zeros_leave_the_layer_as_it_is_after_training_too(dims):
    for form in ("low_rank", "bases", "film"):
        part = stirred(HyperAdapter(HyperConfig(form=form, width=5), dims))
        x, y = torch.randn(2, B, T, dims.d_model).unbind()
        assert torch.equal(part(x, y, context()), y)
        assert not torch.equal(part(x, y, context({"domain": torch.ones(B, 5)})), y)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=14), st.integers(0, 13))
@settings(max_examples=80, deadline=None)
def test_running_mean_is_the_mean_of_the_segment_so_far(lengths, cut):
    """Runs of segments 1, 2, … with padding (a run of length 0 gives one padding token) between and inside."""
    row, number = [], 0
    for length in lengths:
        number += length > 0
        row += [number] * length or [0]
    segments = torch.tensor([row])
    z = torch.randn(1, len(row), 3, generator=torch.Generator().manual_seed(0))
    want = torch.zeros_like(z)
    for i, segment in enumerate(row):
        if segment:
            own = [j for j in range(i + 1) if row[j] == segment]
            want[0, i] = z[0, own].mean(0)
    real = segments[0] > 0
    assert torch.allclose(running_mean(z, segments)[0, real], want[0, real], atol=1e-5)
    cut = min(cut, len(row))
    state = MeanState.empty(1, 3, z.device)
    parts = [running_mean(z[:, a:b], segments[:, a:b], state) for a, b in ((0, cut), (cut, len(row))) if a < b]
    assert torch.allclose(torch.cat(parts, 1)[0, real], want[0, real], atol=1e-5)


def test_domain_is_given_or_inferred(dims):
    torch.manual_seed(0)
    part = stirred(DomainSpecificHyperAdapter(DomainConfig(domains=3), dims))
    x, y = torch.randn(2, B, T, dims.d_model).unbind()
    told = torch.tensor([[0.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    with torch.no_grad():
        found = part(x, y, context({"domain": told}))
        logits = x @ part.infer.weight.T
        for i in range(T):
            first = changed(part.form, x[0, i], y[0, i], part.embedding[1:].mean(0), part.network)
            assert torch.allclose(found[0, i], first, atol=1e-4)
            pi = logits[1, : i + 1].mean(0).softmax(0)
            second = changed(part.form, x[1, i], y[1, i], pi @ part.embedding, part.network)
            assert torch.allclose(found[1, i], second, atol=1e-4)


def test_the_domain_is_learnt_from_labels(dims):
    """Two kinds of text: after training the mixture names the right one, padding aside, and says so in its metrics."""
    torch.manual_seed(0)
    part = DomainSpecificHyperAdapter(DomainConfig(domains=3, label_weight=1.0), dims).train()
    means = torch.randn(2, dims.d_model)
    kind = torch.arange(8) % 2
    told = F.one_hot(kind, 3).float()
    optimizer = torch.optim.Adam(part.parameters(), 0.05)
    segments = torch.ones(8, T, dtype=torch.int64)
    segments[:, -2:] = 0
    for _ in range(30):
        x = means[kind][:, None] + torch.randn(8, T, dims.d_model)
        ctx = Context(torch.arange(T).expand(8, T), segments, {"domain": told})
        part(x, x, ctx)
        optimizer.zero_grad()
        ctx.losses["domain/label"].backward()
        optimizer.step()
    assert float(ctx.metrics["domain/accuracy/0"]) > 0.9
    pi = ctx.metrics["domain/pi/0"]
    assert pi.shape == (3,)
    assert pi[2] < 0.2
    assert torch.allclose(pi.sum(), torch.tensor(1.0), atol=1e-5)
    assert float(ctx.metrics["domain/entropy/0"]) < 0.6


def test_without_labels_there_is_no_label_loss(dims):
    part = DomainSpecificHyperAdapter(DomainConfig(domains=3), dims).train()
    x = torch.randn(B, T, dims.d_model)
    ctx = context()
    part(x, x, ctx)
    assert float(ctx.losses["domain/label"].detach()) == 0.0
