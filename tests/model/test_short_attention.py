"""Attention over short texts: its gradients beside float64's, and when it is taken."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from luna_kernel.model import short_attention
from luna_kernel.model.linear import float32_by_onednn
from luna_kernel.model.short_attention import ShortAttention, attend, attend_plainly


def tensors(
    B: int, H: int, Hk: int, T: int, Dh: int, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, T, H, Dh), (B, T, Hk, Dh), (B, T, Hk, Dh), (B, T, H, Dh)]
    q, k, v, g = (torch.randn(shape, generator=generator).to(dtype).transpose(1, 2) for shape in shapes)
    return q, k, v, g


def gradients(q: Tensor, k: Tensor, v: Tensor, g: Tensor, mask: Tensor | None, dtype: torch.dtype) -> list[Tensor]:
    """Of plain attention, in `dtype`."""
    inputs = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(dtype)
    y = F.scaled_dot_product_attention(*inputs, mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1])
    return list(torch.autograd.grad(y, inputs, g.to(dtype)))


def masks(kind: str, B: int, T: int, dtype: torch.dtype) -> Tensor | None:
    causal = torch.ones(T, T, dtype=torch.bool).tril()
    segments = torch.arange(T).mul(3).floor_divide(max(T, 1)).expand(B, T)
    packed = (causal & (segments[:, :, None] == segments[:, None, :]))[:, None]
    distance = (torch.arange(T)[:, None] - torch.arange(T)).to(dtype)
    biased = (-0.1 * distance).masked_fill(~causal, float("-inf"))[None, None]
    return {"causal": None, "packed": packed, "bias": biased, "window": (causal & (distance < 5))[None, None]}[kind]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("kind", ["causal", "packed", "window", "bias"])
@settings(max_examples=12, deadline=None)
@given(
    B=st.integers(1, 5),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (6, 1)]),
    T=st.integers(2, 40),
    Dh=st.sampled_from([2, 8, 16]),
    scores=st.sampled_from([1, 5000, 1 << 20]),
)
def test_gradients_are_as_near_to_the_truth_as_those_of_pytorch(
    kind: str, dtype: torch.dtype, B: int, heads: tuple[int, int], T: int, Dh: int, scores: int
) -> None:
    q, k, v, g = tensors(B, *heads, T, Dh, dtype)
    mask = masks(kind, B, T, dtype)
    truth = gradients(q, k, v, g, mask, torch.float64)
    theirs = gradients(q, k, v, g, mask, dtype)
    with mock.patch.object(short_attention, "SCORES", scores):
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        y = ShortAttention.apply(*inputs, mask)  # type: ignore[no-untyped-call]
        ours = torch.autograd.grad(y, inputs, g)
    for name, true, their, our in zip("qkv", truth, theirs, ours, strict=True):
        size = true.norm() + 1e-3
        error, allowed = (our - true).norm() / size, (their - true).norm() / size
        assert error <= 2 * allowed + 10 * torch.finfo(dtype).eps, (name, float(error), float(allowed))


@pytest.mark.parametrize("kind", ["causal", "packed", "window", "bias"])
@settings(max_examples=12, deadline=None)
@given(
    B=st.integers(1, 5),
    heads=st.sampled_from([(1, 1), (4, 2), (6, 1)]),
    T=st.integers(2, 40),
    scores=st.sampled_from([1, 5000, 1 << 20]),
)
def test_the_plain_form_is_attention(kind: str, B: int, heads: tuple[int, int], T: int, scores: int) -> None:
    q, k, v, _ = tensors(B, *heads, T, 8, torch.float32)
    mask = masks(kind, B, T, torch.float32)
    with mock.patch.object(short_attention, "SCORES", scores):
        found = attend_plainly(q, k, v, mask)
    grouped = heads[0] != heads[1]
    wanted = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=grouped)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_it_is_taken_for_short_bfloat16_with_gradients_alone() -> None:
    q, k, v, _ = tensors(1, 2, 2, 6, 4)
    taken = []
    with mock.patch.object(ShortAttention, "apply", side_effect=lambda *a: taken.append(a) or a[0]):
        attend(q.requires_grad_(), k, v, None, is_causal=True)
        assert len(taken) == 1
        attend(q.float(), k.float(), v.float(), None, is_causal=True)
        attend(q[:, :, -1:], k, v, None, is_causal=False)
        with torch.no_grad():
            attend(q, k, v, None, is_causal=True)
        learnt = torch.zeros(1, 2, 6, 6, dtype=torch.bfloat16, requires_grad=True)
        attend(q, k, v, learnt, is_causal=False)
        with mock.patch.object(short_attention, "LONGEST", 5):
            attend(q, k, v, None, is_causal=True)
        assert len(taken) == 1


def test_float32_takes_the_plain_form_where_onednn_multiplies() -> None:
    q, k, v, _ = tensors(2, 2, 2, 6, 4, torch.float32)
    plain = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    with (
        mock.patch.object(short_attention, "attend_plainly", wraps=attend_plainly) as taken,
        float32_by_onednn() as onednn,
    ):
        learnt = attend(q.requires_grad_(), k, v, None, is_causal=True)
        with torch.no_grad():
            read = attend(q, k, v, None, is_causal=True)
        assert taken.call_count == (2 if onednn else 0)
        with mock.patch.object(short_attention, "LONGEST", 5):
            attend(q, k, v, None, is_causal=True)
        assert taken.call_count == (2 if onednn else 0)
    assert torch.equal(learnt, read)  # what is evaluated is what was trained
    torch.testing.assert_close(read, plain)


def test_a_learnt_bias_keeps_its_gradient() -> None:
    q, k, v, _ = tensors(1, 2, 2, 6, 4)
    bias = torch.zeros(1, 2, 6, 6, dtype=torch.bfloat16, requires_grad=True)
    attend(q.requires_grad_(), k, v, bias, is_causal=False).sum().backward()
    assert bias.grad is not None
    assert bias.grad.abs().sum() > 0
