"""The operator of the experts: its gradients, its layout of rows, and what a compiler needs of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_moe import experts as module
from luna_plugin_moe.dispatch import make_plan
from luna_plugin_moe.experts import lay_out, num_rows, run_experts

WIDTH, HIDDEN = 6, 4


def case(tokens, experts, top_k, gelu, seed, dtype=torch.float64):
    """Tensors x, w13, w2 and weights with gradients, and the choice (N, K)."""
    generator = torch.Generator().manual_seed(seed)
    favour = torch.rand(experts, generator=generator) ** 3  # some experts get nothing
    chosen = (torch.rand(tokens, experts, generator=generator) * favour).topk(top_k).indices
    shapes = (
        (tokens, WIDTH), (experts, HIDDEN if gelu else 2 * HIDDEN, WIDTH), (experts, WIDTH, HIDDEN), (tokens, top_k),
    )  # fmt: skip
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes], chosen


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 80), st.integers(1, 4), st.booleans(), st.none() | st.integers(1, 50), st.booleans(),
    st.integers(0, 1000),
)  # fmt: skip
def test_gradients(tokens, experts, gelu, capacity, more_rows, seed):
    """Of the sum and of each answer, with rows in between that are nobody's and pairs that are turned away."""
    leaves, chosen = case(tokens, experts, min(2, experts), gelu, seed)
    plan = make_plan(chosen, experts, None if capacity is None else torch.tensor(capacity))

    def call(*leaves):
        y, table, index = run_experts(*leaves, plan)
        return y, table[index]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "has_kernel_per_shape", lambda x, *, gradients: more_rows)
        assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("gelu", [False, True])
def test_the_backward_pass_spoils_nothing(gelu):
    leaves, chosen = case(40, 3, 2, gelu, 0, torch.float32)
    y = run_experts(*leaves, make_plan(chosen, 3)).y
    first = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    for once, again in zip(first, torch.autograd.grad(y.sum(), leaves), strict=True):
        assert torch.equal(once, again)


def test_an_answer_alone_has_a_gradient():
    leaves, chosen = case(9, 3, 2, False, 1)
    table, index = run_experts(*leaves, make_plan(chosen, 3))[1:]
    *grads, of_weights = torch.autograd.grad(table[index].square().sum(), leaves)
    assert all(grad.abs().sum() > 0 for grad in grads)
    assert not of_weights.any()


def test_rows_that_are_nobodys_carry_no_gradient(monkeypatch):
    monkeypatch.setattr(module, "has_kernel_per_shape", lambda x, *, gradients: True)
    leaves, chosen = case(300, 2, 1, False, 2)
    table, index = run_experts(*leaves, make_plan(chosen, 2))[1:]
    assert len(table) > index.numel()
    whole = torch.autograd.grad(table.sum(), leaves, retain_graph=True)
    theirs = torch.autograd.grad(table[index].sum(), leaves)
    for one, other in zip(whole, theirs, strict=True):
        torch.testing.assert_close(one, other)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 400), st.integers(1, 6), st.none() | st.integers(1, 150), st.booleans(), st.integers(0, 1000),
)  # fmt: skip
def test_each_pair_has_a_row_of_its_expert(tokens, experts, capacity, more_rows, seed):
    (x, *_), chosen = case(tokens, experts, min(2, experts), False, seed)
    plan = make_plan(chosen, experts, None if capacity is None else torch.tensor(capacity))
    kept = plan.counts if plan.kept is None else plan.kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "has_kernel_per_shape", lambda x, *, gradients: more_rows)
        tokens_of, index, sizes = lay_out(x, plan.order, plan.inverse, plan.counts, kept)
    ends = torch.tensor(sizes).cumsum(0)
    assert len(tokens_of) == num_rows(chosen.numel()) > ends[-1]
    away = index == len(tokens_of) - 1
    assert int(away.sum()) == int((plan.counts - kept).sum())
    assert torch.equal(torch.bucketize(index, ends, right=True)[~away], chosen[~away])
    assert torch.equal(tokens_of[index][~away], torch.arange(tokens)[:, None].expand_as(index)[~away])
    assert index[~away].unique().numel() == int((~away).sum())


@pytest.mark.slow
def test_what_a_compiler_needs():
    leaves, chosen = case(70, 3, 2, False, 3, torch.float32)
    plan = make_plan(chosen, 3)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(
        module._experts, (*leaves, plan.order, plan.inverse, plan.counts, plan.counts), test_utils=checks
    )
