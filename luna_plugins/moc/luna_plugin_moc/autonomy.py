"""Autonomy of experts: no router; each expert begins to work, and those whom the question stirs most go on.

Lv et al. 2025, arXiv 2501.13074. Shape letters: N tokens, E experts, K chosen, M = N·K, D width, F hidden width of an
expert, R rank.

The gate's matrix is a product of two, W₁,e = U_e V_e. All experts compute V_e x ∈ R^R, its length is the score, and the
chosen ones use it: E_e(x) = W₂,e(silu(U_e V_e x) ⊙ W₃,e x).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from luna_plugin_moe.dispatch import Plan
from torch import Tensor, nn

from luna_kernel.model.operator import operator

from .context import fill


class AutonomyContext(nn.Module):
    """The factors of all gates, and the scores ‖V_e x‖.

    V starts with rows of about length 1, so that scores of normed tokens begin near √R with a deviation of about 0.7;
    U so that a gate's pre-activation begins as wide as a plain expert's.
    """

    def __init__(self, d_model: int, num_experts: int, hidden: int, rank: int, std: float) -> None:
        super().__init__()
        self.std = std
        self.down = nn.Parameter(torch.empty(num_experts, rank, d_model))
        self.up = nn.Parameter(torch.empty(num_experts, hidden, rank))

    def reset_parameters(self) -> None:
        """Fill the weights."""
        fill(self.down)
        nn.init.normal_(self.up, std=self.std * math.sqrt(self.down.shape[2] / self.down.shape[1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, D) float32 -> scores (N, E), which are the logits, and V x (N, E, R)."""
        experts, rank, d = self.down.shape
        stirred = F.linear(x, self.down.to(x.dtype).view(-1, d)).view(-1, experts, rank)
        # a tiny number under the root: a token of zeros has a score without a slope, not with an infinite one
        return (stirred.square().sum(-1) + torch.finfo(x.dtype).eps).sqrt(), stirred

    def flops(self) -> float:
        """Forward operations per token of the scores."""
        experts, rank, d = self.down.shape
        return 2.0 * experts * rank * (d + 1)


def factored_mlp(x: Tensor, stirred: Tensor, up: Tensor, w3: Tensor, w2: Tensor, plan: Plan, experts: Tensor) -> Tensor:
    """Run every token through its experts, from V_e x on.

    Args:
        x: (N, D) in the dtype to compute in.
        stirred: (N, E, R) V x, in that dtype.
        up: (E, F, R) U.
        w3: (E, F, D).
        w2: (E, D, F).
        plan: of `make_plan`.
        experts: (N, K) int64, the choice that the plan sorts.

    Returns:
        (M, D) outputs, unweighted, in the plan's order.
    """
    token = plan.order // experts.shape[1]
    rows = stirred.flatten(0, 1).index_select(0, token * up.shape[0] + experts.reshape(-1)[plan.order])
    y: Tensor = _factored(x, rows, up, w3, w2, plan.order, plan.counts)[0]
    return y


@operator("luna_moc::factored_mlp")
def _factored(
    x: Tensor, rows: Tensor, up: Tensor, w3: Tensor, w2: Tensor, order: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    pairs, width = order.numel(), w2.shape[2]
    tokens = order // (pairs // max(x.shape[0], 1) or 1)
    y = x.new_empty(pairs, x.shape[1])
    gates, values = x.new_empty(pairs, width), x.new_empty(pairs, width)
    with torch.autocast(x.device.type, enabled=False):
        start = 0
        for e, count in enumerate(counts.tolist()):
            if count:
                run = slice(start, start + count)
                torch.mm(rows[run], up[e].t(), out=gates[run])
                torch.mm(x.index_select(0, tokens[run]), w3[e].t(), out=values[run])
                torch.mm(F.silu(gates[run]).mul_(values[run]), w2[e].t(), out=y[run])
            start += count
    return y, gates, values


@_factored.register_fake
def _(
    x: Tensor, rows: Tensor, up: Tensor, w3: Tensor, w2: Tensor, order: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    pairs, width = order.shape[0], w2.shape[2]
    return x.new_empty(pairs, x.shape[1]), x.new_empty(pairs, width), x.new_empty(pairs, width)


@torch.library.custom_op("luna_moc::factored_mlp_backward", mutates_args=())
def _factored_backward(
    grad: Tensor,
    x: Tensor,
    rows: Tensor,
    up: Tensor,
    w3: Tensor,
    w2: Tensor,
    order: Tensor,
    counts: Tensor,
    gates: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_x, grad_rows = torch.zeros_like(x), torch.empty_like(rows)
    grad_up, grad_w3, grad_w2 = torch.zeros_like(up), torch.zeros_like(w3), torch.zeros_like(w2)
    tokens = order // (order.numel() // max(x.shape[0], 1) or 1)
    with torch.autocast(x.device.type, enabled=False):
        start = 0
        for e, count in enumerate(counts.tolist()):
            if count:
                run = slice(start, start + count)
                act = F.silu(gates[run])
                torch.mm(grad[run].t(), act * values[run], out=grad_w2[e])
                grad_act = torch.mm(grad[run], w2[e])
                grad_value = act.mul_(grad_act)
                grad_gate = torch.ops.aten.silu_backward(grad_act.mul_(values[run]), gates[run])
                torch.mm(grad_gate.t(), rows[run], out=grad_up[e])
                torch.mm(grad_gate, up[e], out=grad_rows[run])
                torch.mm(grad_value.t(), x.index_select(0, tokens[run]), out=grad_w3[e])
                grad_x.index_add_(0, tokens[run], torch.mm(grad_value, w3[e]))
            start += count
    return grad_x, grad_rows, grad_up, grad_w3, grad_w2


@_factored_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    rows: Tensor,
    up: Tensor,
    w3: Tensor,
    w2: Tensor,
    order: Tensor,
    counts: Tensor,
    gates: Tensor,
    values: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(like) for like in (x, rows, up, w3, w2))  # type: ignore[return-value]


def _save_factored(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, output[1], output[2])


def _back_factored(ctx: Any, grad: Tensor | None, *_unused: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 7
    return (*_factored_backward(grad.contiguous(), *ctx.saved_tensors), None, None)


_factored.register_autograd(_back_factored, setup_context=_save_factored)
