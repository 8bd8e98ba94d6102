"""A whole sequence through convolution, scan, gate and norm, a stretch of tokens at a time.

Shape letters: B batch, T tokens, I = H·P inner width, H heads, P channels of a head, N state numbers per channel,
C = I + 2N channels of the convolution, W its width, F = I + C + H numbers of a token's projection, K chunks.

As a chain of PyTorch's operations all this would walk over memory some fifty times and keep a dozen results of full
size for the backward pass. Here a stretch goes through everything while it is in the processor's cache, and what is
kept is the projection, the scan's output and one state per chunk; the rest is made again, stretch by stretch, on the
way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .convolution import activate, convolve, convolve_backward, same_run, silu
from .gate import gate, gate_backward
from .scan import Chunks, backward, forward

NUMBERS_AT_ONCE = 1 << 19
"""Channels times tokens of one stretch on a CPU, so that its dozen intermediate results stay in the cache."""
NUMBERS_ELSEWHERE = 1 << 24
"""The same on other devices, which want much work at once."""


class Weights(NamedTuple):
    """What the operation reads of the layer."""

    conv: Tensor | None
    """(W, C), the last row meets the token itself; None: no convolution and no SiLU after it."""
    conv_bias: Tensor | None
    """(C,)."""
    step_bias: Tensor
    """(H,)."""
    rate: Tensor
    """(H,) A < 0."""
    skip: Tensor
    """(H,)."""
    norm: Tensor
    """(I,)."""


def run(
    projected: Tensor,
    before: Tensor,
    state: Tensor,
    weights: Weights,
    *,
    runs: Tensor | None = None,
    real: Tensor | None = None,
    chunk_size: int = 64,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """What stands between the two projections of the layer.

    Args:
        projected: (B, T, F) the parts z, (x, B, C), δ side by side, in the dtype of the matrix products.
        before: (B, W-1, C) the convolution's inputs before the first token, zeros where there were none.
        state: (B, H, P, N) before the first token, float32 or float64.
        weights: see there.
        runs: (B, T) int64, not decreasing, beginning from 0 if the first token continues the state. Where it grows,
            the memory is empty: nothing of an earlier run is seen. None: one run.
        real: (B, T) bool; the state stays as it is where it is False, which must be at the right end. None: all are.
        chunk_size: tokens of a chunk.
        eps: of the norm.

    Returns:
        (B, T, I) in the dtype of `projected`, and the state after the last token.
    """
    args = (projected, before, state, *weights, runs, real, chunk_size, eps)
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        out, last, _, _ = torch.ops.luna_ssm.sequence(*args)
    else:
        out, last, _, _ = _forward(*args, keep=False)
    return out, last


class _Sequence:
    """The arguments, and how a stretch is cut out of them."""

    def __init__(self, projected: Tensor, before: Tensor, state: Tensor, *rest: Any) -> None:
        """The arguments of `run`, in its order."""
        weights, (runs, real, chunk_size, self.eps) = Weights(*rest[: len(Weights._fields)]), rest[-4:]
        self.batch, self.length, _ = projected.shape
        self.heads, self.size, self.width = state.shape[1:]
        self.inner = self.heads * self.size
        self.channels = self.inner + 2 * self.width
        self.low, self.exact = projected.dtype, state.dtype
        self.before, self.runs, self.chunk_size = before, runs, chunk_size
        self.z, self.u, delta = projected.split_with_sizes([self.inner, self.channels, self.heads], dim=-1)
        self.w = Weights(*(None if w is None else w.to(self.exact) for w in weights))  # type: ignore[arg-type]
        self.raw_step = delta.to(self.exact) + self.w.step_bias
        if real is not None:
            self.raw_step = self.raw_step.masked_fill_(~real[..., None], -torch.inf)
        self.step = torch.nn.functional.softplus(self.raw_step)  # exactly 0, and so is its slope, at padding
        self.skip = self.w.skip.repeat_interleave(self.size)
        self.reach = before.shape[1]
        self.longer = None if runs is None else torch.nn.functional.pad(runs, (self.reach or 1, 0))
        self.count = -(-self.length // chunk_size)

    def groups(self) -> Iterator[tuple[slice, list[tuple[int, int, int]]]]:
        """Rows, and their stretches in order: first chunk, number of chunks, tokens of a chunk."""
        full, size = divmod(self.length, self.chunk_size)
        at_once = NUMBERS_AT_ONCE if self.before.device.type == "cpu" else NUMBERS_ELSEWHERE
        chunks = max(at_once // (self.channels * self.chunk_size), 1)
        rows = max(1, min(chunks // max(full, 1), self.batch))  # one row's tokens are neighbours, rows are not
        each = chunks // rows
        parts = [(k, min(each, full - k), self.chunk_size) for k in range(0, full, each)]
        if size:
            parts.append((full, 1, size))
        for start in range(0, self.batch, rows):
            yield slice(start, min(start + rows, self.batch)), parts


class _Stretch:
    """`count` chunks of `size` tokens of some rows, from chunk `first` on."""

    def __init__(self, s: _Sequence, rows: slice, first: int, count: int, size: int) -> None:
        self.s, self.rows, self.count, self.size = s, rows, count, size
        start = first * s.chunk_size
        self.at = (rows, slice(start, start + count * size))
        """Where its tokens are."""
        self.states = (rows, slice(first, first + count + 1))
        """Where the state before it and those after its chunks are."""
        self.batch = rows.stop - rows.start
        stop = start + count * size
        self.z = s.z[self.at].to(s.exact)
        if start >= s.reach:
            window = s.u[rows, start - s.reach : stop]
        else:
            window = torch.cat([s.before[rows, start:], s.u[rows, :stop]], dim=1)
        self.window = window.to(s.exact)
        """(B, W-1 + L, C)."""
        self.same = same_run(None if s.longer is None else s.longer[rows, start : stop + s.reach], s.reach + 1)

    def convolve(self) -> Tensor:
        """(B, L, C) before the SiLU."""
        assert self.s.w.conv is not None
        assert self.s.w.conv_bias is not None
        return convolve(self.window, self.s.w.conv, self.s.w.conv_bias, self.same)

    def fold(self, x: Tensor) -> Tensor:
        """(B, L, …) as (G, Q, …)."""
        return x.reshape(self.batch * self.count, self.size, *x.shape[2:])

    def split(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (G, Q, H, P), write and read (G, Q, N) as views of mixed (B, L, C)."""
        s = self.s
        x, write, read = self.fold(mixed).split_with_sizes([s.inner, s.width, s.width], dim=-1)
        return x.unflatten(-1, (s.heads, s.size)), write, read

    def chunks(self, mixed: Tensor) -> Chunks:
        """For the scan, of mixed (B, L, C) in the dtype of the products."""
        s = self.s
        runs = before = None
        if s.runs is not None and s.longer is not None:
            runs = self.fold(s.runs[self.at])
            ahead = s.longer[self.rows, self.at[1].start + (s.reach or 1) - 1 :: self.size][:, : self.count]
            before = ahead.reshape(-1, 1)
        x, write, read = self.split(mixed)
        return Chunks(x, self.fold(s.step[self.at]), s.w.rate, write, read, runs, before)


def _forward(*args: Any, keep: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    projected, _, state = args[:3]
    with torch.autocast(projected.device.type, enabled=False):
        s = _Sequence(*args)
        out = projected.new_empty(s.batch, s.length, s.inner)
        ys = torch.empty_like(out) if keep else out
        last = state.clone()
        states = state.new_empty(s.batch, s.count + 1, *state.shape[1:]) if keep else state
        for rows, parts in s.groups():
            for part in (_Stretch(s, rows, *numbers) for numbers in parts):
                mixed = part.window if s.w.conv is None else silu(part.convolve())
                y = ys[part.at]
                own = states[part.states] if keep else state.new_empty(part.batch, part.count + 1, *state.shape[1:])
                own[:, 0] = last[rows]
                forward(part.chunks(mixed.to(s.low)), own, y.view(part.batch, part.count, part.size, s.heads, s.size))
                last[rows] = own[:, -1]
                out[part.at] = gate(y.to(s.exact), mixed[..., : s.inner], part.z, s.skip, s.w.norm, s.eps)
        return out, last, ys, states


def _backward(grad: Tensor, grad_last: Tensor, ys: Tensor, states: Tensor, *args: Any) -> list[Tensor]:
    """Gradients of the arguments from `projected` to `norm`, without those that are None."""
    with torch.autocast(grad.device.type, enabled=False):
        s = _Sequence(*args)
        result = torch.empty_like(args[0], memory_format=torch.contiguous_format)
        grad_z, grad_u, grad_delta = result.split_with_sizes([s.inner, s.channels, s.heads], dim=-1)
        grad_step = torch.empty_like(s.step)
        sums = Weights(*(None if w is None else torch.zeros_like(w) for w in s.w))  # type: ignore[arg-type]
        grad_skip = torch.zeros_like(s.skip)
        grad_state = torch.empty_like(grad_last)
        grad_before = torch.empty_like(s.before, dtype=s.exact)
        for rows, parts in s.groups():
            carried = grad_last[rows]
            # A token's convolution reaches back W-1 tokens: what falls before a stretch is handed on in `rest`.
            rest = torch.zeros_like(grad_before[rows])
            for part in (_Stretch(s, rows, *numbers) for numbers in reversed(parts)):
                mixed, slope = (part.window, None) if s.w.conv is None else activate(part.convolve())
                y, x = ys[part.at], mixed[..., : s.inner]
                du, grad_z[part.at], g_skip, g_norm = gate_backward(
                    grad[part.at].to(s.exact), y.to(s.exact), x, part.z, s.skip, s.w.norm, s.eps
                )
                g_mixed = torch.empty_like(mixed, memory_format=torch.contiguous_format)
                g_step, g_rate, carried = backward(
                    part.chunks(mixed.to(s.low)),
                    du.to(s.low).view(-1, part.size, s.heads, s.size),
                    y.reshape(-1, part.size, s.heads, s.size),
                    states[part.states],
                    carried,
                    part.split(g_mixed),
                )
                grad_step[part.at] = g_step.view(part.batch, -1, s.heads)
                g_mixed[..., : s.inner].addcmul_(du, s.skip)
                adds = [(sums.rate, g_rate), (grad_skip, g_skip), (sums.norm, g_norm)]
                if slope is not None:
                    g_mixed, *g_conv = convolve_backward(g_mixed.mul_(slope), part.window, s.w.conv, part.same)
                    g_mixed[:, g_mixed.shape[1] - s.reach :] += rest
                    rest = g_mixed[:, : s.reach]
                    adds += zip(sums[:2], g_conv, strict=True)
                grad_u[part.at] = g_mixed[:, s.reach :]
                for total, add in adds:
                    total += add
            grad_state[rows], grad_before[rows] = carried, rest
        grad_delta.copy_(grad_step.mul_(torch.sigmoid(s.raw_step)))
        sums = sums._replace(step_bias=grad_step.sum((0, 1)), skip=grad_skip.view(s.heads, -1).sum(1))
        grads = (result, grad_before, grad_state, *sums)
        return [g.to(given.dtype) for g, given in zip(grads, args, strict=False) if given is not None]


_ARGUMENTS = (
    "Tensor projected, Tensor before, Tensor state, Tensor? conv, Tensor? conv_bias, Tensor step_bias, Tensor rate, "
    "Tensor skip, Tensor norm, Tensor? runs, Tensor? real, int chunk_size, float eps"
)
_KEPT = "Tensor grad, Tensor grad_last, Tensor ys, Tensor states"
_WITH_GRADIENT = 3 + len(Weights._fields)
torch.library.define("luna_ssm::sequence", f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)")
torch.library.define("luna_ssm::sequence_backward", f"({_KEPT}, {_ARGUMENTS}) -> Tensor[]")
torch.library.impl("luna_ssm::sequence", "default")(_forward)
torch.library.impl("luna_ssm::sequence_backward", "default")(_backward)


@torch.library.register_fake("luna_ssm::sequence")
def _(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    projected, _, state = args[:3]
    out = projected.new_empty(*projected.shape[:2], state.shape[1] * state.shape[2])
    count = (projected.shape[1] + args[-2] - 1) // args[-2] + 1
    return (
        out,
        torch.empty_like(state),
        torch.empty_like(out),
        state.new_empty(state.shape[0], count, *state.shape[1:]),
    )


@torch.library.register_fake("luna_ssm::sequence_backward")
def _(grad: Tensor, grad_last: Tensor, ys: Tensor, states: Tensor, *args: Any) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in args[:_WITH_GRADIENT] if t is not None]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *tensors, ctx.chunk_size, ctx.eps = inputs
    ctx.save_for_backward(*output[2:], *tensors)
    ctx.set_materialize_grads(False)


def _back(ctx: Any, grad: Tensor | None, grad_last: Tensor | None, _ys: Any, _states: Any) -> tuple[Any, ...]:
    ys, states, *args = ctx.saved_tensors
    grad = torch.zeros_like(ys) if grad is None else grad
    grad_last = torch.zeros_like(args[2]) if grad_last is None else grad_last
    grads = iter(torch.ops.luna_ssm.sequence_backward(grad, grad_last, ys, states, *args, ctx.chunk_size, ctx.eps))
    given = [next(grads) if t is not None else None for t in args[:_WITH_GRADIENT]]
    return (*given, None, None, None, None)


torch.library.register_autograd("luna_ssm::sequence", _back, setup_context=_save)
