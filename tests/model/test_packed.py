"""Packed matrices: the same numbers, taken only where they are fresh and where there is memory for them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from luna_kernel.model import linear as linear_module
from luna_kernel.model import packed as room
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.linear import Packed, linear
from luna_kernel.model.packed import pack

pytestmark = pytest.mark.skipif(
    not (hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this torch cannot pack",
)


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every matrix is packed, and every product takes it."""
    monkeypatch.setattr(room, "FEWEST_NUMBERS", 0)
    monkeypatch.setattr(room, "_GAIN", float("inf"))
    monkeypatch.setattr(linear_module, "FEWEST_ALONE", 0)


def fields_of(model: Decoder) -> list[torch.Tensor]:
    return [weight for weight in model.parameters() if hasattr(weight, "packed")]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(2, 40), st.booleans(), st.integers(0, 1000))
def test_the_same_product(inner: int, outer: int, rows: int, biased: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(rows, 1, inner, generator=generator), torch.randn(outer, inner, generator=generator)
    bias = torch.randn(outer, generator=generator) if biased else None
    weight.packed = Packed(torch.ops.mkldnn._reorder_linear_weight(weight, None), weight._version)  # type: ignore[attr-defined]
    with torch.inference_mode():
        y = linear(x, weight, bias)
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(y.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("everything")
def test_a_model_says_the_same_and_learns_as_before(model: Decoder) -> None:
    tokens = torch.randint(0, model.dims.vocab_size, (5, 7), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = model(tokens).logits
    taken = pack(model, 1 << 30)
    weights = fields_of(model)
    assert taken == sum(weight.nbytes for weight in weights) > 0
    assert any(weight is model.head_weight for weight in weights)
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens).logits, before, atol=1e-4, rtol=1e-4)
    model(tokens).logits.sum().backward()
    with torch.no_grad():
        for weight in weights:
            weight.add_(1.0)  # what was packed is of yesterday
        changed = model(tokens).logits
        for weight in weights:
            del weight.packed  # type: ignore[attr-defined]
        torch.testing.assert_close(changed, model(tokens).logits)
    assert not torch.allclose(changed, before, atol=1e-2)


@pytest.mark.usefixtures("everything")
def test_no_more_memory_than_allowed(model: Decoder) -> None:
    limit = model.head_weight.nbytes
    assert pack(model, 0) == 0
    assert not fields_of(model)
    assert 0 < pack(model, limit) <= limit


def test_what_gains_nothing_is_not_packed(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FEWEST_NUMBERS", 0)
    monkeypatch.setattr(room, "_GAIN", 0.0)
    assert pack(model, 1 << 30) == 0
    assert not fields_of(model)


def test_other_numbers_are_left_alone(model: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FEWEST_NUMBERS", 0)
    assert pack(model.to(torch.bfloat16), 1 << 30) == 0
