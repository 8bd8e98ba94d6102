"""The state-space mixer against the slow recurrence, in float64, one token after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_ssm.convolution import convolve
from luna_plugin_ssm.gate import gated_norm
from luna_plugin_ssm.scan import advance, scan

B, H, P, N = 2, 3, 4, 5


def recurrence(x, step, rate, write, read, state, runs=None):
    """The definition."""
    outputs, before = [], torch.zeros(x.shape[0], dtype=torch.int64)
    for t in range(x.shape[1]):
        if runs is not None:
            state = torch.where((runs[:, t] == before)[:, None, None, None], state, 0)
            before = runs[:, t]
        write_t, read_t = write[:, t, None, None], read[:, t, None, None]
        dx = step[:, t, :, None] * x[:, t]
        state = state * torch.exp(step[:, t] * rate)[..., None, None] + dx[..., None] * write_t
        outputs.append((state * read_t).sum(-1))
    return torch.stack(outputs, 1), state


def material(length, seed=0, *, fastest=1.0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    step = torch.nn.functional.softplus(normal(B, length, H)) * fastest
    return [
        normal(B, length, H, P),
        step,
        -normal(H).exp(),
        normal(B, length, N),
        normal(B, length, N),
        normal(B, H, P, N),
    ]


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@given(
    length=st.integers(1, 90),
    chunk=st.sampled_from([1, 2, 7, 16, 64, 200]),
    cuts=st.sampled_from([0.0, 0.05, 0.5]),
    fastest=st.sampled_from([1e-4, 0.01, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_scan_is_the_recurrence(length, chunk, cuts, fastest, seed):
    data = material(length, seed, fastest=fastest)
    generator = torch.Generator().manual_seed(seed)
    runs = (torch.rand(B, length, generator=generator) < cuts).long().cumsum(1) if cuts else None
    y, state = scan(*[v.float() for v in data], runs=runs, chunk_size=chunk)
    y_slow, state_slow = recurrence(*data, runs)
    assert relative(y, y_slow) < 1e-5
    assert relative(state, state_slow) < 1e-5 or state_slow.abs().max() < 1e-6


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("chunk", [1, 8, 64])
def test_gradients_of_the_scan(cut, chunk):
    runs = torch.tensor([[0] * 5 + [1] * 10 + [2] * 22, [1] * 9 + [2] * 28]) if cut else None
    g = torch.Generator().manual_seed(5)
    wy = torch.randn(B, 37, H, P, generator=g, dtype=torch.float64)
    wh = torch.randn(B, H, P, N, generator=g, dtype=torch.float64)
    results = []
    for call in (lambda *a: scan(*a, runs=runs, chunk_size=chunk), lambda *a: recurrence(*a, runs)):
        data = [v.requires_grad_() for v in material(37)]
        y, state = call(*data)
        ((y * wy).sum() + (state * wh).sum()).backward()
        results.append([v.grad for v in data])
    for fast, slow in zip(*results, strict=True):
        assert torch.allclose(fast, slow, atol=1e-10, rtol=1e-9)


def test_gradient_with_the_output_or_the_state_alone():
    for pick in (0, 1):
        fast, slow = ([v.requires_grad_() for v in material(11)] for _ in range(2))
        scan(*fast, chunk_size=4)[pick].square().sum().backward()
        recurrence(*slow)[pick].square().sum().backward()
        for a, b in zip(fast, slow, strict=True):
            assert torch.allclose(a.grad, torch.zeros_like(a) if b.grad is None else b.grad, atol=1e-10)


def test_one_step_is_the_recurrence():
    x, step, rate, write, read, state = material(1)
    y, after = advance(x[:, 0], step[:, 0], rate, write[:, 0], read[:, 0], state)
    y_slow, slow = recurrence(x, step, rate, write, read, state)
    assert torch.allclose(y, y_slow[:, 0])
    assert torch.allclose(after, slow)


def test_scan_in_two_parts_is_one_pass():
    data = [v.float() for v in material(50)]
    whole, last = scan(*data, chunk_size=16)
    x, step, rate, write, read, state = data
    first, middle = scan(x[:, :21], step[:, :21], rate, write[:, :21], read[:, :21], state, chunk_size=16)
    second, end = scan(x[:, 21:], step[:, 21:], rate, write[:, 21:], read[:, 21:], middle, chunk_size=16)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-5)
    assert torch.allclose(end, last, atol=1e-5)


def test_the_scan_leaves_its_inputs_alone():
    data = material(20)
    copies = [v.clone() for v in data]
    with torch.no_grad():
        scan(*data, chunk_size=8)
    assert all(torch.equal(a, b) for a, b in zip(data, copies, strict=True))


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("cut", [False, True])
def test_convolution(width, cut, monkeypatch):
    monkeypatch.setattr("luna_plugin_ssm.convolution.NUMBERS_AT_ONCE", 2 * 6 * 8)  # several stretches
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 30, 6), (2, width - 1, 6), (6, width), (6,))
    u, before, weight, bias = (torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes)
    runs = (torch.rand(2, 30, generator=g) < 0.3).long().cumsum(1) if cut else None
    y = convolve(u, before, weight, bias, runs)
    padded = torch.cat([before, u], 1)
    full_runs = torch.cat(
        [torch.zeros(2, width - 1, dtype=torch.int64), torch.zeros(2, 30).long() if runs is None else runs], 1
    )
    for b in range(2):
        for t in range(30):
            total = bias.clone()
            for j in range(width):
                if full_runs[b, t + width - 1 - j] == full_runs[b, t + width - 1]:
                    total = total + weight[:, width - 1 - j] * padded[b, t + width - 1 - j]
            assert torch.allclose(y[b, t], torch.nn.functional.silu(total))
    inputs = (u, before, weight, bias) if width > 1 else (u, weight, bias)
    check = (lambda *a: convolve(*a, runs)) if width > 1 else (lambda a, c, d: convolve(a, before, c, d, runs))
    assert torch.autograd.gradcheck(check, inputs, fast_mode=True)
    with torch.no_grad():
        assert torch.equal(convolve(u, before, weight, bias, runs), y)


def test_gate_and_norm(monkeypatch):
    monkeypatch.setattr("luna_plugin_ssm.gate.NUMBERS_AT_ONCE", 12 * 7)
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 9, 3, 4), (2, 9, 3, 4), (2, 9, 12), (3,), (12,))
    inputs = [torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]
    y, x, z, skip, weight = inputs
    v = (y + skip[:, None] * x).flatten(-2) * z * torch.sigmoid(z)
    expected = v / torch.sqrt(v.square().mean(-1, keepdim=True) + 1e-5) * weight
    assert torch.allclose(gated_norm(*inputs, 1e-5), expected)
    with torch.no_grad():
        assert torch.allclose(gated_norm(*inputs, 1e-5), expected)
    assert torch.autograd.gradcheck(lambda *a: gated_norm(*a, 1e-5), inputs)
