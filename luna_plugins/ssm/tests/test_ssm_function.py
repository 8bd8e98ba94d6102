"""What stands between the projections, against the definition: one token after the other, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_ssm import sequence
from luna_plugin_ssm.scan import advance
from luna_plugin_ssm.sequence import Weights, run

H, P, N = 3, 4, 5
INNER = H * P
CHANNELS = INNER + 2 * N
EPS = 1e-5


def slow(projected, before, state, weights, runs=None, real=None):
    """The definition, token by token."""
    batch, length, _ = projected.shape
    z, u, delta = projected.split([INNER, CHANNELS, H], -1)
    reach, none = before.shape[1], torch.zeros(batch, length, dtype=torch.int64)
    inputs = torch.cat([before, u], 1)
    run_of = torch.cat([none[:, :1].expand(-1, reach), none if runs is None else runs], 1)
    outputs, last_run = [], none[:, 0]
    for t in range(length):
        mixed = u[:, t]
        if weights.conv is not None:
            mixed = weights.conv_bias.expand(batch, -1)
            for j in range(reach + 1):
                seen = run_of[:, t + reach - j] == run_of[:, t + reach]
                mixed = mixed + weights.conv[reach - j] * torch.where(seen[:, None], inputs[:, t + reach - j], 0)
            mixed = mixed * torch.sigmoid(mixed)
        x, write, read = mixed.split([INNER, N, N], -1)
        x = x.reshape(batch, H, P)
        step = torch.log1p(torch.exp(delta[:, t] + weights.step_bias))
        if real is not None:
            step = torch.where(real[:, t, None], step, 0)
        state = torch.where((run_of[:, t + reach] == last_run)[:, None, None, None], state, 0)
        last_run = run_of[:, t + reach]
        dx = step[..., None] * x
        state = state * torch.exp(step * weights.rate)[..., None, None] + dx[..., None] * write[:, None, None]
        y = (state * read[:, None, None]).sum(-1) + weights.skip[:, None] * x
        v = y.flatten(1) * z[:, t] * torch.sigmoid(z[:, t])
        outputs.append(v / torch.sqrt(v.square().mean(-1, keepdim=True) + EPS) * weights.norm)
    return torch.stack(outputs, 1), state


def material(batch, length, *, width=4, seed=0, fastest=0.0):
    """projected, before, state and weights as leaves in float64; `fastest` is added to the step's bias."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    conv = (normal(width, CHANNELS), normal(CHANNELS)) if width else (None, None)
    weights = Weights(*conv, normal(H) + fastest, -normal(H).exp(), normal(H), normal(INNER))
    tensors = (
        normal(batch, length, INNER + CHANNELS + H), normal(batch, max(width - 1, 0), CHANNELS), normal(batch, H, P, N)
    )  # fmt: skip
    for tensor in (*tensors, *weights):
        if tensor is not None:
            tensor.requires_grad_()
    return *tensors, weights


def layout(batch, length, cuts, padded, seed=0):
    """runs and real, as `make_packing` gives them."""
    g = torch.Generator().manual_seed(seed)
    runs = (torch.rand(batch, length, generator=g) < cuts).long().cumsum(1) if cuts else None
    if not padded:
        return runs, None
    count = torch.randint(0, length + 1, (batch, 1), generator=g)
    real = torch.arange(length) < count
    if runs is not None:
        runs = torch.where(real, runs, runs.gather(1, (count - 1).clamp_min(0)))
        runs = torch.where(count == 0, 0, runs)
    return runs, real


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-6)).item()


CASES = {
    "batch": st.integers(1, 4),
    "length": st.integers(1, 70),
    "width": st.sampled_from([0, 1, 2, 4]),
    "chunk": st.sampled_from([1, 2, 7, 16, 64, 100]),
    "at_once": st.sampled_from([1, 500, 1500, 1 << 17]),
    "cuts": st.sampled_from([0.0, 0.05, 0.5]),
    "padded": st.booleans(),
    "seed": st.integers(0, 1000),
}


@given(**CASES, fastest=st.sampled_from([-9.0, -4.0, 0.0, 30.0]))
@settings(max_examples=60, deadline=None)
def test_it_is_the_definition(batch, length, width, chunk, at_once, cuts, padded, seed, fastest):
    projected, before, state, weights = material(batch, length, width=width, seed=seed, fastest=fastest)
    runs, real = layout(batch, length, cuts, padded, seed)
    kept = torch.ones(batch, length, dtype=torch.bool) if real is None else real
    single = Weights(*(None if w is None else w.detach().float() for w in weights))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence, "NUMBERS_AT_ONCE", at_once)
        y, last = run(
            projected.float(), before.float(), state.float(), single,
            runs=runs, real=real, chunk_size=chunk, eps=EPS,
        )  # fmt: skip
        y_slow, last_slow = slow(projected, before, state, weights, runs, real)
    assert torch.isfinite(y).all()
    # An output that is nearly zero before the norm keeps no digits in float32: compare the bulk, bound the rest.
    error = (y - y_slow)[kept].abs()
    assert error.numel() == 0 or error.mean() < 2e-5
    assert error.numel() == 0 or error.max() < 5e-3
    assert relative(last, last_slow) < 2e-5


@given(**CASES)
@settings(max_examples=40, deadline=None)
def test_gradients(batch, length, width, chunk, at_once, cuts, padded, seed):
    runs, real = layout(batch, length, cuts, padded, seed)
    g = torch.Generator().manual_seed(seed + 1)
    wy = torch.randn(batch, length, INNER, generator=g, dtype=torch.float64)
    if real is not None:
        wy = wy * real[..., None]
    wh = torch.randn(batch, H, P, N, generator=g, dtype=torch.float64)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence, "NUMBERS_AT_ONCE", at_once)
        for fast in (True, False):
            *tensors, weights = material(batch, length, width=width, seed=seed)
            if fast:
                y, last = run(*tensors, weights, runs=runs, real=real, chunk_size=chunk, eps=EPS)
            else:
                y, last = slow(*tensors, weights, runs, real)
            ((y * wy).sum() + (last * wh).sum()).backward()
            leaves = [t for t in (*tensors, *weights) if t is not None]
            results.append([torch.zeros_like(t) if t.grad is None else t.grad for t in leaves])
    for fast, reference in zip(*results, strict=True):
        assert torch.allclose(fast, reference, atol=1e-9, rtol=1e-8)


def test_gradcheck():
    *tensors, weights = material(2, 9)
    runs, _ = layout(2, 9, 0.3, padded=False)

    def call(projected, before, state, *rest):
        return run(projected, before, state, Weights(*rest), runs=runs, chunk_size=4, eps=EPS)

    assert torch.autograd.gradcheck(call, (*tensors, *weights), fast_mode=True)


@pytest.mark.parametrize("pick", [0, 1])
def test_gradient_with_the_output_or_the_state_alone(pick):
    results = []
    for fast in (True, False):
        *tensors, weights = material(2, 11)
        result = run(*tensors, weights, chunk_size=4, eps=EPS) if fast else slow(*tensors, weights)
        result[pick].square().sum().backward()
        results.append([torch.zeros_like(t) if t.grad is None else t.grad for t in (*tensors, *weights)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def test_with_and_without_gradients_is_the_same_to_the_bit():
    *tensors, weights = material(3, 50)
    y, last = run(*tensors, weights, chunk_size=16)
    with torch.no_grad():
        again, last_again = run(*tensors, weights, chunk_size=16)
    assert torch.equal(y, again)
    assert torch.equal(last, last_again)


def test_strong_decay_gives_no_infinity_and_no_nan():
    projected, before, state, weights = material(1, 200, fastest=3000.0)
    y, last = run(projected, before, state, weights, chunk_size=64)
    (y.sum() + last.sum()).backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(t.grad).all() for t in (projected, before, state, *weights))


@given(length=st.integers(2, 60), cut=st.integers(1, 59), chunk=st.sampled_from([3, 16]), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_two_parts_are_one_pass(length, cut, chunk, seed):
    cut = min(cut, length - 1)
    with torch.no_grad():
        projected, before, state, weights = material(2, length, seed=seed)
        whole, last = run(projected, before, state, weights, chunk_size=chunk)
        first, middle = run(projected[:, :cut], before, state, weights, chunk_size=chunk)
        seen = torch.cat([before, projected[:, :cut, INNER : INNER + CHANNELS]], 1)[:, -3:]
        second, end = run(projected[:, cut:], seen, middle, weights, chunk_size=chunk)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-9)
    assert torch.allclose(end, last, atol=1e-11)


def test_the_inputs_are_left_alone():
    for grad in (True, False):
        *tensors, weights = material(2, 20)
        copies = [t.detach().clone() for t in (*tensors, *weights)]
        with torch.set_grad_enabled(grad):
            y, last = run(*tensors, weights, chunk_size=8)
            if grad:
                (y.sum() + last.sum()).backward()
        assert all(torch.equal(a, b) for a, b in zip((*tensors, *weights), copies, strict=True))


def test_one_step_is_the_recurrence():
    g = torch.Generator().manual_seed(0)
    x, write, read, state = (torch.randn(s, generator=g) for s in ((2, H, P), (2, N), (2, N), (2, H, P, N)))
    step, rate = torch.rand(2, H, generator=g), -torch.rand(H, generator=g)
    y, after = advance(x, step, rate, write, read, state)
    for b in range(2):
        for h in range(H):
            expected = state[b, h] * torch.exp(step[b, h] * rate[h]) + step[b, h] * torch.outer(x[b, h], write[b])
            assert torch.allclose(after[b, h], expected, atol=1e-6)
            assert torch.allclose(y[b, h], expected @ read[b], atol=1e-5)


def test_the_operation_says_what_it_does():
    *tensors, weights = material(2, 10)
    runs, real = layout(2, 10, 0.3, padded=True)
    args = (*tensors, *weights, runs, real, 4, EPS)
    torch.library.opcheck(torch.ops.luna_ssm.sequence, args, test_utils=("test_schema", "test_faketensor"))
