"""The layer against W + (alpha / r) B A, written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_lora.adapter import LowRank
from luna_plugin_lora.config import LowRankConfig
from torch import nn

from luna_kernel.train.optimizers import named_parameters

sizes = st.integers(1, 12)


def learnt(inputs: int, outputs: int, rank: int, alpha: float = 4.0, *, bias: bool = True) -> LowRank:
    torch.manual_seed(inputs * 1000 + outputs * 100 + rank)
    layer = LowRank(LowRankConfig(rank=rank, alpha=alpha), nn.Linear(inputs, outputs, bias=bias))
    nn.init.normal_(layer.b)
    return layer


@given(sizes, sizes, sizes, st.floats(0.1, 30), st.booleans())
@settings(max_examples=50, deadline=None)
def test_it_is_the_papers_sum(inputs, outputs, rank, alpha, bias):
    layer = learnt(inputs, outputs, rank, alpha, bias=bias)
    x = torch.randn(3, inputs)
    weight, a, b = (one.detach().double() for one in (layer.wrapped.weight, layer.a, layer.b))
    used = min(rank, inputs, outputs)
    rows = [
        [
            sum(
                float(weight[o, i] + alpha / used * sum(b[o, k] * a[k, i] for k in range(used))) * float(row[i])
                for i in range(inputs)
            )
            + (float(layer.wrapped.bias[o]) if bias else 0.0)
            for o in range(outputs)
        ]
        for row in x
    ]
    torch.testing.assert_close(layer(x), torch.tensor(rows), rtol=1e-3, atol=1e-3)


@given(sizes, sizes, sizes)
@settings(max_examples=50, deadline=None)
def test_merged_computes_the_same(inputs, outputs, rank):
    layer = learnt(inputs, outputs, rank)
    x = torch.randn(5, inputs)
    before = layer(x)
    merged = layer.merged()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), before, rtol=1e-4, atol=1e-4)


def test_at_birth_it_is_the_wrapped_layer_to_the_bit():
    plain = nn.Linear(7, 5)
    x = torch.randn(4, 7)
    expected = plain(x)
    layer = LowRank(LowRankConfig(rank=3), plain)
    assert torch.equal(layer(x), expected)
    assert bool(layer.a.abs().sum() > 0)  # or nothing would ever be learnt


def test_only_its_own_weights_are_trained():
    layer = learnt(6, 4, 2)
    layer(torch.randn(2, 6)).sum().backward()
    assert layer.wrapped.weight.grad is None
    assert layer.wrapped.bias.grad is None
    assert layer.a.grad is not None
    found = {item.name: item for item in named_parameters(nn.Sequential(layer))}
    assert set(found) == {"0.a", "0.b"}
    assert not found["0.a"].weight_decay
    assert not found["0.b"].matrix
    assert found["0.b"].lr_scale == 10


@pytest.mark.parametrize("rank", [1, 100])
def test_the_rank_is_never_more_than_the_layer_has(rank):
    layer = LowRank(LowRankConfig(rank=rank), nn.Linear(6, 4))
    assert layer.a.shape == (min(rank, 4), 6)
