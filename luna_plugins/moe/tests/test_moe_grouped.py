"""Grouped matrix products give what one expert after the other gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_moe.dispatch import combine, make_plan
from luna_plugin_moe.experts import run_experts
from luna_plugin_moe.grouped import can_group, grouped_mlp

pytestmark = pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped matrix product")


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.none() | st.integers(1, 9),
    st.integers(0, 1000),
)  # fmt: skip
def test_the_same_function_and_gradients(
    tokens: int, experts: int, top_k: int, gelu: bool, capacity: int | None, seed: int
) -> None:
    top_k = min(top_k, experts)
    generator = torch.Generator().manual_seed(seed)
    favour = torch.rand(experts, generator=generator) ** 3  # some experts get nothing
    chosen = (torch.rand(tokens, experts, generator=generator) * favour).topk(top_k).indices
    plan = make_plan(chosen, experts, None if capacity is None else torch.tensor(capacity))
    shapes = ((tokens, 16), (experts, 8 if gelu else 16, 16), (experts, 16, 8))
    x, w13, w2 = (torch.randn(shape, generator=generator) for shape in shapes)
    weights = torch.randn(tokens, top_k, generator=generator)
    target, each = torch.randn(tokens, 16, generator=generator), torch.randn(tokens, top_k, 16, generator=generator)
    found = []
    for grouped in (False, True):
        *leaves, w = (tensor.clone().requires_grad_() for tensor in (x, w13, w2, weights))
        if grouped:
            table, index = grouped_mlp(*leaves, plan), plan.inverse
            y = combine(table, w, index)
        else:
            y, table, index = run_experts(*leaves, w, plan)
        said = table[index]
        ((y * target).sum() + (said * each).sum()).backward()
        found.append([y.detach(), said.detach(), *(leaf.grad for leaf in (*leaves, w))])
    for one_by_one, grouped in zip(*found, strict=True):
        torch.testing.assert_close(grouped, one_by_one, atol=1e-4, rtol=1e-4)


def test_a_processor_runs_one_expert_after_the_other() -> None:
    x = torch.zeros(4, 16, dtype=torch.bfloat16)
    assert not can_group(x, x.new_zeros(2, 16, 8))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.integers(0, 1000))
def test_a_few_rows_together_are_what_each_expert_gives(
    tokens: int, experts: int, top_k: int, gelu: bool, seed: int
) -> None:
    top_k = min(top_k, experts)
    generator = torch.Generator().manual_seed(seed)
    plan = make_plan(torch.rand(tokens, experts, generator=generator).topk(top_k).indices, experts)
    shapes = ((tokens, 16), (experts, 8 if gelu else 16, 16), (experts, 16, 8))
    x, w13, w2 = (torch.randn(shape, generator=generator) for shape in shapes)
    weights = torch.randn(tokens, top_k, generator=generator)
    found = []
    for few in (0, 1000):
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr("luna_plugin_moe.experts.FEW_ROWS", few)
            y, table, index = run_experts(x, w13, w2, weights, plan)
            found.append(torch.cat([y[:, None], table[index]], 1))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)
