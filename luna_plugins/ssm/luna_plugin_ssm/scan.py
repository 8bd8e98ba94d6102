"""The linear recurrence of a selective state space, chunk by chunk (Dao and Gu 2024, arXiv 2405.21060, §6).

    h_t = a_t h_{t-1} + (Δ_t x_t) B_tᵀ,   y_t = h_t C_t,   a_t = exp(A Δ_t)

Shape letters: B rows, n chunks in a row's stretch, G = B·n, Q tokens of a chunk, H heads, P channels of a head, N state
numbers per channel.

Inside a chunk y is a masked matrix product, ((C Bᵀ) ∘ L)(Δx) with L_ij = a_{j+1}…a_i, and C Bᵀ is the same for all
heads; between chunks one state per head is handed on. Decays, their sums and the state are in float32 (float64 with
float64), whatever the products are in.

The gradient of the decays' logarithms needs no Q×Q matrix: with s the running sum inside a chunk,
∂s_i = ⟨∂y_i, y_i⟩ − ⟨Δ_i x_i, ∂(Δ_i x_i)⟩, and ⟨∂h, h⟩ at the chunk's end. It follows from how s scales each side.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_LOG = -80.0
"""Of a decay: e⁻⁸⁰ is nothing beside 1 in any dtype, and below it processors fall into slow denormal numbers."""


class Chunks:
    """What forward and backward share: a stretch of equal chunks, their decays and their matrix of B and C."""

    def __init__(
        self,
        x: Tensor,
        step: Tensor,
        rate: Tensor,
        write: Tensor,
        read: Tensor,
        runs: Tensor | None = None,
        before: Tensor | None = None,
    ) -> None:
        """Of x (G, Q, H, P), step (G, Q, H), rate (H,), write and read (G, Q, N), see `sequence`.

        Args:
            runs: (G, Q), None: one run.
            before: (G, 1), the run that the state before the chunk belongs to.
        """
        self.x, self.step, self.rate, self.write, self.read = x, step, rate, write, read
        logs = (step * rate).cumsum(1)  # (G, Q, H), sums from the chunk's beginning
        by_head = logs.transpose(1, 2).contiguous()
        # Above the diagonal the differences are positive and could overflow: bounded here, zeroed in `gram`, which is
        # H times smaller. A mask of -inf here would make the exponential three times as slow.
        self.inner = (by_head[..., None] - by_head[..., None, :]).clamp_(SMALLEST_LOG, 0).exp_()
        """(G, H, Q, Q) from token j to token i, for j <= i."""
        self.enter = logs.clamp_min(SMALLEST_LOG).exp_()
        """(G, Q, H) from the state before the chunk to token i."""
        self.leave = (logs[:, -1:] - logs).clamp_min_(SMALLEST_LOG).exp_()
        """(G, Q, H) from token j to the state after the chunk."""
        self.whole = self.enter[:, -1].clone()
        """(G, H) from the state before to the state after."""
        self.same: Tensor | None = None
        if runs is not None and before is not None:
            self.same = runs[:, :, None] == runs[:, None, :]
            self.enter *= (runs == before)[..., None]
            self.leave *= (runs == runs[:, -1:])[..., None]
            self.whole *= runs[:, -1:] == before
        self.gram = self.mask(read @ write.transpose(1, 2))
        """(G, Q, Q) C_i · B_j, 0 where i must not see j."""

    def mask(self, matrix: Tensor) -> Tensor:
        """Zero, in place, what joins a token with a later one or one of another run; matrix (G, Q, Q)."""
        return matrix.tril_() if self.same is None else matrix.mul_(self.same).tril_()

    def mix(self) -> Tensor:
        """(G, H, Q, Q) what y_i takes of Δ_j x_j, in the dtype of x; uses `inner` up."""
        return self.inner.mul_(self.gram[:, None]).to(self.x.dtype)


def forward(c: Chunks, states: Tensor, y: Tensor) -> None:
    """Run the recurrence over a stretch.

    Args:
        c: the stretch.
        states: (B, n+1, H, P, N); the first is the state before the stretch, the state after each chunk is filled in.
        y: (B, n, Q, H, P) is filled in.
    """
    rows, count = y.shape[:2]
    low = c.x.dtype
    dx = c.step[..., None] * c.x
    near = c.mix() @ dx.transpose(1, 2).to(low)  # (G, H, Q, P)
    left = dx.mul_(c.leave[..., None]).to(low).flatten(2)  # (G, Q, HP)
    added = (left.transpose(1, 2) @ c.write).view(rows, count, *states.shape[2:]).to(states.dtype)
    whole = c.whole.view(rows, count, -1, 1, 1)
    for j in range(count):
        torch.addcmul(added[:, j], states[:, j], whole[:, j], out=states[:, j + 1])
    far = c.read @ _flat(states[:, :-1], low).transpose(1, 2)  # (G, Q, HP)
    near, enter = near.view(rows, count, *near.shape[1:]).transpose(2, 3), c.enter.to(low)
    torch.addcmul(near, far.view(y.shape), enter.view(*y.shape[:-1], 1), out=y)


def backward(
    c: Chunks, grad_y: Tensor, y: Tensor, states: Tensor, grad: Tensor, out: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a stretch.

    Args:
        c: the stretch.
        grad_y, y: (G, Q, H, P).
        states: (B, n+1, H, P, N) as `forward` left them.
        grad: (B, H, P, N) of the state after the stretch.
        out: gradients of x, write and read are filled in.

    Returns:
        Gradients of step, of rate and of the state before the stretch.
    """
    rows, count = states.shape[0], states.shape[1] - 1
    low, leave = c.x.dtype, c.leave[..., None].to(c.x.dtype)
    grad_x, grad_write, grad_read = out
    entered = (grad_y * c.enter[..., None].to(low)).flatten(2)
    came = (entered.transpose(1, 2) @ c.read).view(rows, count, *grad.shape[1:]).to(grad.dtype)
    whole = c.whole.view(rows, count, -1, 1, 1)
    after = [grad]  # of the state after each chunk
    for j in reversed(range(count)):
        after.append(torch.addcmul(came[:, j], after[-1], whole[:, j]))
    grads = torch.stack(after[-2::-1], 1)
    flat = _flat(grads, low)
    ends = (grads * states[:, 1:]).sum((-1, -2))  # (B, n, H)

    dx = (c.step[..., None] * c.x).to(low)
    by_head = grad_y.transpose(1, 2).contiguous()
    grad_mix = (by_head @ dx.permute(0, 2, 3, 1)).mul_(c.inner)  # (G, H, Q, Q)
    grad_gram = c.mask(grad_mix.sum(1))
    near = c.mix().transpose(2, 3) @ by_head  # (G, H, Q, P)
    far = (c.write @ flat.transpose(1, 2)).view(dx.shape)
    grad_dx = torch.addcmul(near.transpose(1, 2), far, leave, out=far)
    left = dx.mul_(leave).flatten(2)
    grad_read.copy_((entered @ _flat(states[:, :-1], low)).baddbmm_(grad_gram, c.write))
    grad_write.copy_((left @ flat).baddbmm_(grad_gram.transpose(1, 2), c.read))
    torch.mul(grad_dx, c.step[..., None], out=grad_x)
    # the decays
    grad_step = grad_dx.mul_(c.x).sum(-1, dtype=c.step.dtype)
    sums = (grad_y * y).sum(-1, dtype=c.step.dtype) - c.step * grad_step
    sums[:, -1] += ends.flatten(0, 1)
    logs = sums.flip(1).cumsum(1).flip(1)
    grad_rate = (logs * c.step).sum((0, 1))
    return grad_step.addcmul_(logs, c.rate), grad_rate, after[-1]


def _flat(states: Tensor, dtype: torch.dtype) -> Tensor:
    """States (B, n, H, P, N) as (G, HP, N)."""
    return states.to(dtype).reshape(states.shape[0] * states.shape[1], -1, states.shape[-1])


def advance(x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: x (B, H, P), step (B, H), write and read (B, N), state (B, H, P, N) -> y (B, H, P) and the new state.

    Costs the same however long the text before it was.
    """
    decay = torch.exp(step * rate)[..., None, None]
    dx = (step[..., None] * x).to(state.dtype)
    state = (state * decay).addcmul_(dx[..., None], write[:, None, None].to(state.dtype))
    y = (state.flatten(1, 2) @ read[..., None].to(state.dtype)).view(x.shape)
    return y.to(x.dtype), state
