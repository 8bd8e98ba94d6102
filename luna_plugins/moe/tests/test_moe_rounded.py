"""Experts multiply more rows than they have where each new number of rows costs time, and it changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_moe.dispatch import make_plan
from luna_plugin_moe.experts import num_rows, rounded, run_experts


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400), st.integers(1, 5), st.booleans(), st.none() | st.integers(1, 150), st.integers(0, 1000),
)  # fmt: skip
def test_the_same_function_and_gradients(
    tokens: int, experts: int, gelu: bool, capacity: int | None, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    favour = torch.rand(experts, generator=generator) ** 3  # some experts get nothing
    top_k = min(2, experts)
    chosen = (torch.rand(tokens, experts, generator=generator) * favour).topk(top_k).indices
    plan = make_plan(chosen, experts, None if capacity is None else torch.tensor(capacity))
    shapes = ((tokens, 16), (experts, 8 if gelu else 16, 16), (experts, 16, 8))
    x, w13, w2 = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    weights, target = (torch.randn(tokens, size, generator=generator, dtype=torch.float64) for size in (top_k, 16))
    found = []
    for more in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("luna_plugin_moe.experts.has_kernel_per_shape", lambda x, *, gradients, more=more: more)
            leaves = [tensor.clone().requires_grad_() for tensor in (x, w13, w2, weights)]
            y, table, index = run_experts(*leaves, plan)
            said = table[index]
            ((y * target).sum() + said.square().sum()).backward()
            with torch.no_grad():
                alone = run_experts(x, w13, w2, weights, plan)
            alone_said = alone.table[alone.index]
            found.append([y.detach(), said.detach(), alone.y, alone_said, *(leaf.grad for leaf in leaves)])
    for exact, more_rows in zip(*found, strict=True):
        torch.testing.assert_close(more_rows, exact)


def test_few_numbers_of_rows_are_multiplied() -> None:
    low = torch.zeros(1, 1, dtype=torch.bfloat16)
    sizes = [rounded(rows, low) for rows in range(1, 4097)]
    assert len(set(sizes)) <= 32 * 12
    assert all(rows <= size <= rows * (1 + 1 / 32) for rows, size in enumerate(sizes, 1))
    assert rounded(77, low.double()) == 77
    assert all(8 * (size - rows) < num_rows(8 * rows) - 8 * rows for rows, size in enumerate(sizes, 1))


def test_weights_keep_their_dtype_and_so_do_their_gradients() -> None:
    plan = make_plan(torch.tensor([[0, 1], [1, 2], [0, 2]]), 3)
    x, w13, w2 = torch.randn(3, 16), torch.randn(3, 16, 16).requires_grad_(), torch.randn(3, 16, 8).requires_grad_()
    weights = torch.rand(3, 2)
    y = run_experts(x.bfloat16(), w13, w2, weights, plan).y
    y.float().square().sum().backward()
    low13, low2 = (w.detach().bfloat16().requires_grad_() for w in (w13, w2))
    expected = run_experts(x.bfloat16(), low13, low2, weights, plan).y
    expected.float().square().sum().backward()
    assert torch.equal(y, expected)
    assert w13.grad is not None
    assert low13.grad is not None
    assert w13.grad.dtype == torch.float32
    assert torch.equal(w13.grad, low13.grad.float())
