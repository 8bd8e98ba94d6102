"""The newest token's attention in low precision: against double precision, and no less exact than PyTorch's kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from luna_kernel.model import decode_attention
from luna_kernel.model.decode_attention import attend_newest
from luna_kernel.model.short_attention import attend


def drawn(B: int, shared: int, group: int, S: int, Dh: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    q = 2 * torch.randn(B, shared * group, 1, Dh, generator=generator)
    k, v = (torch.randn(B, shared, 2 * S, Dh, generator=generator)[:, :, :S] for _ in range(2))  # as in a cache
    return tuple(x.to(dtype) for x in (q, k, v))


def exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    given = mask if mask is None or mask.dtype == torch.bool else mask.double()
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), given, enable_gqa=True)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 70), st.sampled_from([1, 8, 16]),
    st.sampled_from(["none", "bool", "bool per head", "bias"]), st.sampled_from([torch.bfloat16, torch.float16]),
    st.integers(0, 10_000),
)  # fmt: skip
def test_no_less_exact_than_the_kernel(
    B: int, shared: int, group: int, S: int, Dh: int, masked: str, dtype: torch.dtype, seed: int
) -> None:
    q, k, v = drawn(B, shared, group, S, Dh, seed, dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    mask = None
    if masked.startswith("bool"):
        mask = torch.rand(B, shared * group if "head" in masked else 1, 1, S, generator=generator) > 0.5
        mask[..., 0] = True
    elif masked == "bias":
        mask = torch.randn(B, shared * group, 1, S, generator=generator).to(dtype)
    expected = exact(q, k, v, mask)
    kernel = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
    mine = attend_newest(q, k, v, mask)
    assert mine.shape == kernel.shape
    assert mine.dtype == dtype
    assert (mine.double() - expected).norm() <= 1.2 * (kernel.double() - expected).norm() + 1e-3 * expected.norm()


def test_rows_that_do_not_fit_together_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = drawn(5, 2, 2, 33, 8, 0, torch.bfloat16)
    mask = torch.rand(5, 1, 1, 33) > 0.3
    mask[..., 0] = True
    whole = attend_newest(q, k, v, mask)
    monkeypatch.setattr(decode_attention, "NUMBERS_AT_ONCE", 2 * k[0].numel())
    assert torch.equal(attend_newest(q, k, v, mask), whole)


def test_it_is_taken_for_a_token_in_low_precision_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    place = "luna_kernel.model.short_attention.attend_newest"
    monkeypatch.setattr(place, lambda *given: calls.append(given) or given[0])
    q, k, v = drawn(1, 1, 2, 9, 8, 0, torch.bfloat16)
    with torch.no_grad():
        attend(q, k, v, None, is_causal=False)
        assert len(calls) == 1
        attend(q.float(), k.float(), v.float(), None, is_causal=False)
        attend(q.expand(-1, -1, 9, -1), k, v, None, is_causal=True)
    attend(q.requires_grad_(), k, v, None, is_causal=False)
    assert len(calls) == 1
