"""The product by either library: the same numbers, and the plain one wherever gradients or autocast are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from luna_kernel.model import linear as room
from luna_kernel.model.linear import Linear, float32_by_onednn, has_kernel_per_shape, linear, onednn_is_faster

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


def test_training_multiplies_float32_exactly_and_leaves_the_setting_as_it_was() -> None:
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    before = getattr(settings, "fp32_precision", None)
    x, weight = torch.randn(70, 300), torch.randn(90, 300)
    exact = x.double() @ weight.double().t()
    with float32_by_onednn() as taken:
        assert has_kernel_per_shape(x, gradients=True) is taken
        torch.testing.assert_close((x @ weight.t()).double(), exact, atol=1e-4, rtol=1e-4)
        with pytest.raises(ZeroDivisionError), float32_by_onednn():  # nested, and with an error
            raise ZeroDivisionError
        assert has_kernel_per_shape(x, gradients=True) is taken
    assert getattr(settings, "fp32_precision", None) == before
    assert not has_kernel_per_shape(x, gradients=True)
    assert has_kernel_per_shape(x.bfloat16(), gradients=True)
    assert not has_kernel_per_shape(x.double(), gradients=True)


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="this torch has no such setting")
def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "onednn_is_faster", lambda: True)
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    try:
        settings.fp32_precision = "ieee"
        with float32_by_onednn() as taken:
            assert not taken
            assert settings.fp32_precision == "ieee"
    finally:
        settings.fp32_precision = before


def test_rounding_to_bfloat16_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor,
        "__matmul__",
        lambda a, b: plain(a, b) if a.dtype == torch.float64 else plain(a.bfloat16(), b.bfloat16()).float(),
    )
    monkeypatch.setattr(room, "cpu", lambda: {"flags": ["avx512f"]})
    assert not room._onednn_is_exact.__wrapped__()
    monkeypatch.undo()
    monkeypatch.setattr(room, "cpu", lambda: {"flags": ["avx512f", "amx_tile"]})
    assert not room._onednn_is_exact.__wrapped__()
