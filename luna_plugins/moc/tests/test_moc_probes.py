"""The preliminary meeting as an operator, against the definition, and its gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_moc.probes import _meet, meet

WIDTH = 5


def case(tokens, experts, rank, heads, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        (tokens, WIDTH), (rank, WIDTH), (experts * rank, rank), (experts * rank,), (rank, heads * rank + 1 + heads),
    )  # fmt: skip
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
def test_the_definition_and_its_gradients(tokens, experts, rank, heads, seed):
    leaves = case(tokens, experts, rank, heads, seed)
    x, down, probe, bias, wide = (leaf.detach() for leaf in leaves)
    scores, probes, attention = meet(*leaves, heads)
    for n in range(tokens):
        z = down @ x[n]
        p = []
        for e in range(experts):
            raw = probe[e * rank : (e + 1) * rank] @ z + bias[e * rank : (e + 1) * rank]
            p.append(raw * torch.sigmoid(raw))
        for e in range(experts):
            score = p[e] @ wide[:, heads * rank]
            for h in range(heads):
                pairs = wide[:, h * rank : (h + 1) * rank]
                a = torch.softmax(torch.stack([p[e] @ pairs @ other for other in p]), 0)
                torch.testing.assert_close(attention[n, h, e], a)
                score = score + sum(share * (other @ wide[:, -heads + h]) for share, other in zip(a, p, strict=True))
            torch.testing.assert_close(scores[n, e].detach(), score)
        torch.testing.assert_close(probes[n].detach(), torch.stack(p))
    assert torch.autograd.gradcheck(lambda *leaves: meet(*leaves, heads)[:2], leaves, fast_mode=True)


@pytest.mark.slow
def test_what_a_compiler_needs():
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(_meet.defined, (*case(4, 3, 2, 2, 0, torch.float32), 2), test_utils=checks)
