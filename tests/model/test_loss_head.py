"""The chunked head against the plain computation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from luna_kernel.model import loss_head
from luna_kernel.model.loss_head import linear_cross_entropy


def plain(hidden, weight, targets, weights):
    logits = F.linear(hidden, weight).flatten(0, 1).float()
    losses = F.cross_entropy(logits, targets.flatten(), reduction="none")
    return (losses * (1 if weights is None else weights.flatten())).sum()


def both(N, V, D, seed, weighted, dtype=torch.float64, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    hidden = (scale * torch.randn(1, N, D, generator=g)).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=g).to(dtype).requires_grad_()
    targets = torch.randint(0, V, (1, N), generator=g)
    weights = torch.randint(0, 3, (1, N), generator=g).float() / 2 if weighted else None
    found = []
    for function in (linear_cross_entropy, plain):
        loss = function(hidden, weight, targets, weights)
        found.append((loss.detach(), *torch.autograd.grad(0.3 * loss, (hidden, weight))))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(2, 30), st.integers(1, 8), st.integers(0, 999), st.booleans(),
       st.sampled_from([64, 512, 1 << 24]), st.sampled_from([16, 256, 1 << 20]))  # fmt: skip
def test_exact(N, V, D, seed, weighted, chunk, block):
    old = loss_head.CHUNK_BYTES, loss_head.BLOCK_BYTES
    loss_head.CHUNK_BYTES, loss_head.BLOCK_BYTES = chunk, block
    try:
        for mine, theirs in zip(*both(N, V, D, seed, weighted, torch.float32), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    finally:
        loss_head.CHUNK_BYTES, loss_head.BLOCK_BYTES = old


def test_huge_logits_stay_finite():
    for mine, theirs in zip(*both(9, 20, 4, 0, True, torch.float32, scale=300.0), strict=True):
        assert torch.isfinite(mine).all()
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-2)


def test_all_weights_zero_is_zero_with_zero_gradients():
    hidden, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3))
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_nothing_is_computed_for_gradients_that_nobody_wants(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "mm", lambda *a, **k: calls.append(1))
    with torch.no_grad():
        hidden, weight = torch.randn(1, 3, 4), torch.randn(5, 4)
        targets = torch.tensor([[1, 2, 3]])
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), plain(hidden, weight, targets, None))
    assert not calls


def test_bfloat16_autocast_is_near():
    torch.manual_seed(0)
    hidden, weight = torch.randn(4, 64, 32, requires_grad=True), (0.2 * torch.randn(300, 32)).requires_grad_()
    targets = torch.randint(0, 300, (4, 64))
    expected = torch.autograd.grad(plain(hidden, weight, targets, None), (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    actual = torch.autograd.grad(loss, (hidden, weight))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain(hidden, weight, targets, None).item(), rel=2e-3)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine - theirs).norm() < 0.02 * theirs.norm()


def test_the_logits_never_exist_at_once():
    """The largest allocation of a pass is a chunk, not (N, V) in float32."""
    N, V, D = 4096, 4096, 8
    hidden, weight = torch.randn(1, N, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        linear_cross_entropy(hidden, weight, torch.zeros(1, N, dtype=torch.int64)).backward()
    sizes = [event.nbytes() for event in memory_events(profile.profiler.kineto_results.experimental_event_tree())]
    assert max(sizes) <= loss_head.CHUNK_BYTES < 4 * N * V


def memory_events(tree):
    for event in tree:
        fields = event.extra_fields
        if hasattr(fields, "alloc_size"):
            yield Size(fields.alloc_size)
        yield from memory_events(event.children)


class Size:
    def __init__(self, size):
        self.size = size

    def nbytes(self):
        return self.size
