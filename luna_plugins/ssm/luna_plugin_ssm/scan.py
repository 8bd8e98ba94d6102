"""The linear recurrence of a selective state space, chunk by chunk (Dao and Gu 2024, arXiv 2405.21060, §6).

    h_t = a_t h_{t-1} + (Δ_t x_t) B_tᵀ,   y_t = h_t C_t,   a_t = exp(A Δ_t)

Shape letters: B batch, T tokens, H heads, P channels of a head, N state numbers per channel, Q tokens of a chunk.

Inside a chunk y is a masked matrix product, ((C Bᵀ) ∘ L)(Δx) with L_ij = a_{j+1}…a_i, and C Bᵀ is the same for all
heads; between chunks one state per head is handed on. Chunks are done one after the other, so nothing of size T·Q is
ever stored; decays, their sums and the state are in float32 (float64 with float64), whatever the products are in.

The gradient of the decays' logarithms needs no Q×Q matrix either: with s the running sum inside a chunk,
∂s_i = ⟨∂y_i, y_i⟩ − ⟨Δ_i x_i, ∂(Δ_i x_i)⟩, and ⟨∂h, h⟩ at the chunk's end. It follows from how s scales each side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scan(
    x: Tensor,
    step: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    state: Tensor,
    *,
    runs: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence over a whole sequence of any length.

    Args:
        x: (B, T, H, P) inputs, in the dtype of the matrix products.
        step: (B, T, H) Δ ≥ 0, float32 or float64. Where it is 0 the token is ignored: the state stays as it is.
        rate: (H,) A < 0, in the dtype of `step`.
        write: (B, T, N), B of the formula, dtype of x.
        read: (B, T, N), C of the formula, dtype of x.
        state: (B, H, P, N) before the first token, in the dtype of `step`.
        runs: (B, T) int64, not decreasing, beginning from 0 if the first token continues the state. Where it
            grows, the memory is empty: nothing of an earlier run is seen. None: one run.
        chunk_size: Q.

    Returns:
        y (B, T, H, P) in the dtype of x, and the state after the last token.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        y, last, _ = _scan_op(x, step, rate, write, read, state, runs, chunk_size)
        return y, last
    with torch.autocast(x.device.type, enabled=False):
        y, last, _ = _forward(x, step, rate, write, read, state, runs, chunk_size, keep=False)
    return y, last


class _Decays:
    """What the decays of one chunk multiply."""

    def __init__(self, step: Tensor, rate: Tensor, runs: Tensor | None, before: Tensor | None) -> None:
        logs = (step * rate).cumsum(1)  # (B, Q, H), sums from the chunk's beginning
        by_head = logs.transpose(1, 2).contiguous()
        size = logs.shape[1]
        later = torch.full((size, size), -torch.inf, dtype=logs.dtype, device=logs.device).triu_(1)
        inner = by_head[..., None] - by_head[..., None, :]
        enter, leave = logs, logs[:, -1:] - logs
        whole = logs[:, -1]
        if runs is None or before is None:
            inner += later
        else:
            inner += later.masked_fill(runs[:, :, None] != runs[:, None, :], -torch.inf)[:, None]
            enter = enter.masked_fill((runs != before)[..., None], -torch.inf)
            leave = leave.masked_fill((runs != runs[:, -1:])[..., None], -torch.inf)
            whole = whole.masked_fill(runs[:, -1:] != before, -torch.inf)
        self.inner = inner.exp_()
        """(B, H, Q, Q) from token j to token i."""
        self.enter = enter.exp()
        """(B, Q, H) from the state before the chunk to token i."""
        self.leave = leave.exp()
        """(B, Q, H) from token j to the state after the chunk."""
        self.whole = whole.exp()
        """(B, H) from the state before to the state after."""


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _run_before(runs: Tensor | None, start: int) -> Tensor | None:
    if runs is None:
        return None
    return runs[:, start - 1, None] if start else torch.zeros_like(runs[:, :1])


def _forward(
    x: Tensor,
    step: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    state: Tensor,
    runs: Tensor | None,
    chunk_size: int,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, size = x.shape
    width = state.shape[-1]
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    parts = _chunks(length, chunk_size)
    states = state.new_empty(len(parts) if keep else 0, batch, heads, size, width)
    state = state.clone()
    for number, part in enumerate(parts):
        if keep:
            states[number] = state
        decay = _Decays(step[:, part], rate, None if runs is None else runs[:, part], _run_before(runs, part.start))
        b, c = write[:, part], read[:, part]
        dx = step[:, part, :, None] * x[:, part]  # (B, Q, H, P)
        mix = decay.inner.mul_((c @ b.transpose(1, 2))[:, None]).to(x.dtype)
        near = mix @ dx.transpose(1, 2).to(x.dtype)  # (B, H, Q, P)
        far = (c @ state.view(batch, -1, width).to(x.dtype).transpose(1, 2)).view(dx.shape)
        torch.addcmul(near.transpose(1, 2), far, decay.enter[..., None].to(x.dtype), out=y[:, part])
        left = dx.mul_(decay.leave[..., None]).to(x.dtype).flatten(2)  # (B, Q, HP)
        state.mul_(decay.whole[..., None, None]).add_((left.transpose(1, 2) @ b).view(state.shape))
    return y, state, states


@torch.library.custom_op("luna_ssm::scan", mutates_args=())
def _scan_op(
    x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor, runs: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        return _forward(x, step, rate, write, read, state, runs, chunk, keep=True)


@_scan_op.register_fake
def _(
    x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor, runs: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    count = (x.shape[1] + chunk - 1) // chunk
    return x.new_empty(x.shape), torch.empty_like(state), state.new_empty(count, *state.shape)


@torch.library.custom_op("luna_ssm::scan_backward", mutates_args=())
def _scan_backward_op(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    step: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    runs: Tensor | None,
    y: Tensor,
    last: Tensor,
    states: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        return _backward(grad_y, grad_state, x, step, rate, write, read, runs, y, last, states, chunk)


@_scan_backward_op.register_fake
def _(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    step: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    runs: Tensor | None,
    y: Tensor,
    last: Tensor,
    states: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = torch.empty_like
    return (
        x.new_empty(x.shape),
        like(step),
        like(rate),
        write.new_empty(write.shape),
        read.new_empty(read.shape),
        like(last),
    )


def _backward(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    step: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    runs: Tensor | None,
    y: Tensor,
    last: Tensor,
    states: Tensor,
    chunk_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, length = x.shape[:2]
    width, low = last.shape[-1], x.dtype
    grad_x = x.new_empty(x.shape)
    grad_step = step.new_empty(step.shape)
    grad_rate = torch.zeros_like(rate)
    grad_write, grad_read = write.new_empty(write.shape), read.new_empty(read.shape)
    grad = grad_state.clone()  # of the state after the chunk
    after = last
    for number, part in reversed(list(enumerate(_chunks(length, chunk_size)))):
        before = states[number]
        decay = _Decays(step[:, part], rate, None if runs is None else runs[:, part], _run_before(runs, part.start))
        b, c, dy = write[:, part], read[:, part], grad_y[:, part]
        dx = (step[:, part, :, None] * x[:, part]).to(low)
        by_head = dy.transpose(1, 2)
        gram = (c @ b.transpose(1, 2))[:, None]
        grad_mix = by_head @ dx.permute(0, 2, 3, 1)  # (B, H, Q, Q)
        grad_gram = (grad_mix * decay.inner).sum(1).to(low)
        mix = decay.inner.mul_(gram).to(low)
        near = (mix.transpose(2, 3) @ by_head).transpose(1, 2)
        flat = grad.view(batch, -1, width).to(low)
        far = (b @ flat.transpose(1, 2)).view(dx.shape)
        grad_dx = torch.addcmul(near, far, decay.leave[..., None].to(low))  # (B, Q, H, P)
        entered = (dy * decay.enter[..., None].to(low)).flatten(2)
        left = (dx * decay.leave[..., None].to(low)).flatten(2)
        grad_read[:, part] = torch.baddbmm(entered @ before.view(batch, -1, width).to(low), grad_gram, b)
        grad_write[:, part] = torch.baddbmm(left @ flat, grad_gram.transpose(1, 2), c)
        # the decays: ∂s_i, then the sum from the chunk's end, since s is a running sum of the logarithms
        sums = (dy * y[:, part]).sum(-1, dtype=step.dtype) - (dx * grad_dx).sum(-1, dtype=step.dtype)
        sums[:, -1] += (grad * after).sum((-1, -2))
        logs = sums.flip(1).cumsum(1).flip(1)
        torch.mul(grad_dx, step[:, part, :, None].to(low), out=grad_x[:, part])
        grad_step[:, part] = (grad_dx * x[:, part]).sum(-1, dtype=step.dtype).addcmul_(logs, rate)
        grad_rate += (logs * step[:, part]).sum((0, 1))
        grad.mul_(decay.whole[..., None, None]).add_((entered.transpose(1, 2) @ c).view(grad.shape))
        after = before
    return grad_x, grad_step, grad_rate, grad_write, grad_read, grad


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, step, rate, write, read, _state, runs, ctx.chunk = inputs
    ctx.save_for_backward(x, step, rate, write, read, runs, *output)
    ctx.set_materialize_grads(False)


def _back(ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, _states: Any) -> tuple[Any, ...]:
    x, step, rate, write, read, runs, y, last, states = ctx.saved_tensors
    grad_y = torch.zeros_like(y) if grad_y is None else grad_y.contiguous()
    grad_state = torch.zeros_like(last) if grad_state is None else grad_state.contiguous()
    grads = _scan_backward_op(grad_y, grad_state, x, step, rate, write, read, runs, y, last, states, ctx.chunk)
    return (*grads, None, None)


_scan_op.register_autograd(_back, setup_context=_save)


def advance(x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: x (B, H, P), step (B, H), write and read (B, N), state (B, H, P, N) -> y (B, H, P) and the new state.

    Costs the same however long the text before it was.
    """
    decay = torch.exp(step * rate)[..., None, None]
    dx = (step[..., None] * x).to(state.dtype)
    state = torch.addcmul(state * decay, dx[..., None], write[:, None, None].to(state.dtype))
    y = (state.flatten(1, 2) @ read[..., None].to(state.dtype)).view(x.shape)
    return y.to(x.dtype), state
