"""The product by either library: the same numbers, and the plain one wherever gradients or autocast are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from luna_kernel.model import linear as room
from luna_kernel.model.linear import Linear, linear, onednn_is_faster

has_product = hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN for products of any size, on any processor."""
    monkeypatch.setattr(room, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(room, "FEWEST_ROWS", 1)
    monkeypatch.setattr(room, "FEWEST_PRODUCTS", 0)


@pytest.mark.skipif(not has_product, reason="this torch has no such product")
@pytest.mark.usefixtures("everywhere")
def test_the_same_product() -> None:
    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.integers(0, 5), min_size=0, max_size=3), st.integers(1, 40), st.integers(1, 40), st.booleans(),
        st.integers(0, 1000),
    )  # fmt: skip
    def check(shape: list[int], inner: int, outer: int, biased: bool, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        x, weight = torch.randn(*shape, inner, generator=generator), torch.randn(outer, inner, generator=generator)
        bias = torch.randn(outer, generator=generator) if biased else None
        with torch.no_grad():
            y = linear(x, weight, bias)
            part = linear(x, weight.t().contiguous().t(), bias)  # a matrix that lies otherwise in memory
        expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
        torch.testing.assert_close(y.double(), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(part, y, atol=1e-4, rtol=1e-4)

    check()


@pytest.mark.usefixtures("everywhere")
def test_gradients_and_autocast_take_the_plain_product(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    plain = F.linear
    monkeypatch.setattr(F, "linear", lambda *given: calls.append(given) or plain(*given))
    layer = Linear(8, 4, std=0.1)
    x = torch.randn(5, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert len(calls) == 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert len(calls) == 2
    with torch.no_grad():
        layer.double()(x.double())
    assert len(calls) == 3


def test_it_is_asked_of_the_machine() -> None:
    assert onednn_is_faster() in (True, False)
    if onednn_is_faster():
        assert has_product
