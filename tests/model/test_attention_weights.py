"""The weights that attention tells are those that it uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luna_kernel.contracts.layers import Context
from luna_kernel.model.attention import Attention
from luna_kernel.model.attention_config import AttentionConfig
from luna_kernel.model.rope import RotaryPosition
from luna_kernel.model.rope_config import RotaryConfig
from luna_kernel.testing.subject import DIMS

SEGMENTS = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2, 2, 2], [1] * 10])


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["alone", "packed"])
@pytest.mark.parametrize(
    "config", [{}, {"qk_norm": True}, {"window": 3}, {"window": 3, "sinks": 2}, {"out_bias": True}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_times_values_is_the_output(
    config: dict[str, Any], segments: torch.Tensor | None, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = Attention(AttentionConfig(**config), DIMS).to(dtype)
    x = torch.randn(2, 10, DIMS.d_model, dtype=dtype)
    position = RotaryPosition(RotaryConfig(), DIMS)
    ctx = Context(torch.arange(10).expand(2, 10), segments, position=position)
    with torch.no_grad():
        out = layer(x, ctx)
        weights, values = layer.weights(x, ctx)
        again = layer.out((weights @ values).transpose(1, 2).reshape(2, 10, -1))
    torch.testing.assert_close(again, out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, DIMS.num_heads, 10, dtype=dtype), atol=1e-5, rtol=0)
    assert float(weights.triu(1).abs().max()) == 0
    if segments is not None:
        assert float(weights[0, :, 5:, :5].abs().max()) == 0, "a sample sees no other"


def test_a_cache_is_left_as_it_is() -> None:
    layer = Attention(AttentionConfig(), DIMS)
    state = layer.make_state(1, 16, torch.float32, torch.device("cpu"))
    x = torch.randn(1, 4, DIMS.d_model)
    ctx = Context(torch.arange(4)[None], state=state)
    with torch.no_grad():
        weights, _ = layer.weights(x, ctx)
    assert weights.shape == (1, DIMS.num_heads, 4, 4)
    assert state.length == 0
    assert ctx.state is state
