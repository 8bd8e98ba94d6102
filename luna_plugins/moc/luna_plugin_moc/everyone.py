"""All experts on all tokens, for the full context.

Shape letters: N tokens, E experts, D width, F hidden width of an expert, M = N·K chosen pairs.

The hidden layer's pre-activations are all that is kept for the backward pass; what follows from them is computed again
there. Products are taken expert by expert over many rows, as one large matrix product each.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from luna_plugin_moe.dispatch import Plan, sum_rows
from luna_plugin_moe.experts import (
    Answers,
    back_answers,
    differentiate,
    fake_answers,
    lay_out,
    save_answers,
)
from torch import Tensor

from luna_kernel.model.operator import operator

ROWS, ROWS_BACK = 512, 4096
"""Rows of one matrix product, forward and backward: forward, few enough that what is between two products stays near
the processor; backward, where every product adds to the weights' gradients, enough that this is rare."""
ROWS_ELSEWHERE = 1 << 16
"""The same on other devices, which want much work at once."""


def run_all(x: Tensor, w13: Tensor, w2: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
    """Every expert on every token.

    Args:
        x: (N, D) in the dtype to compute in.
        w13: (E, 2F, D) the gates' and values' weights, in that dtype.
        w2: (E, D, F).
        keep: give the pre-activations too; without it nothing is kept and no gradient goes through.

    Returns:
        Outputs (N, E, D), and the pre-activations (E, N, 2F), gates before values, or (E, 0, 2F).
    """
    both: tuple[Tensor, Tensor] = _everyone(x, w13, w2, keep)
    return both


def _parts(x: Tensor, rows: int) -> list[slice]:
    """Of the tokens of x (N, D), `rows` each on a processor."""
    size = rows if x.device.type == "cpu" else ROWS_ELSEWHERE
    return [slice(start, start + size) for start in range(0, x.shape[0], size)]


@operator("luna_moc::everyone")
def _everyone(x: Tensor, w13: Tensor, w2: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    experts, d, width = w2.shape
    tokens = x.shape[0]
    y = x.new_empty(tokens, experts, d)
    kept = x.new_empty(experts, tokens if keep else 0, 2 * width)
    with torch.autocast(x.device.type, enabled=False):
        for part in _parts(x, ROWS):
            for e in range(experts):
                weight = w13[e].t()
                hidden = torch.mm(x[part], weight, out=kept[e, part]) if keep else torch.mm(x[part], weight)
                act = F.silu(hidden[:, :width]).mul_(hidden[:, width:])
                y[part, e] = torch.mm(act, w2[e].t())  # not `out=`: rows that far apart are slow to write to twice
    return y, kept


@_everyone.register_fake
def _(x: Tensor, w13: Tensor, w2: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    experts, d, width = w2.shape
    return x.new_empty(x.shape[0], experts, d), x.new_empty(experts, x.shape[0] if keep else 0, 2 * width)


@torch.library.custom_op("luna_moc::everyone_backward", mutates_args=())
def _everyone_backward(grad: Tensor, x: Tensor, w13: Tensor, w2: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    experts, _, width = w2.shape
    grad_x, grad_w13, grad_w2 = torch.zeros_like(x), torch.zeros_like(w13), torch.zeros_like(w2)
    with torch.autocast(x.device.type, enabled=False):
        for part in _parts(x, ROWS_BACK):
            for e in range(experts):
                gate, value = kept[e, part, :width], kept[e, part, width:]
                both = _before_swiglu(grad[part, e].contiguous(), gate, value, w2[e], grad_w2[e])
                grad_w13[e].addmm_(both.t(), x[part])
                grad_x[part].addmm_(both, w13[e])
    return grad_x, grad_w13, grad_w2


def _before_swiglu(grad: Tensor, gate: Tensor, value: Tensor, w2: Tensor, grad_w2: Tensor) -> Tensor:
    """From the gradient (n, D) of W₂(silu(gate) ⊙ value) to that of gate and value side by side, (n, 2F); adds to that
    of W₂ on the way."""
    width = w2.shape[1]
    act = F.silu(gate)
    grad_w2.addmm_(grad.t(), act * value)
    grad_act = torch.mm(grad, w2)
    both = grad.new_empty(grad.shape[0], 2 * width)
    torch.mul(grad_act, act, out=both[:, width:])
    both[:, :width] = torch.ops.aten.silu_backward(grad_act.mul_(value), gate)
    return both


@_everyone_backward.register_fake
def _(grad: Tensor, x: Tensor, w13: Tensor, w2: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(w13), torch.empty_like(w2)


def _save_everyone(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3], output[1])


def _back_everyone(ctx: Any, grad: Tensor | None, _kept: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 4
    return (*_everyone_backward(grad.contiguous(), *ctx.saved_tensors), None)


_everyone.register_autograd(_back_everyone, setup_context=_save_everyone)


def take_chosen(
    x: Tensor, w13: Tensor, w2: Tensor, weights: Tensor, plan: Plan, spoken: Tensor, kept: Tensor
) -> Answers:
    """The chosen experts' outputs out of all, with the gradient that they would have had if they alone had run.

    Args:
        x, w13, w2: what `run_all` got.
        weights: (N, K) of the chosen experts.
        plan: of `make_plan`.
        spoken: (N, E, D), of `run_all`; no gradient goes back through it.
        kept: (E, N, 2F), of `run_all`.
    """
    y, table, index, *_ = _chosen(x, w13, w2, weights, plan.order, plan.inverse, plan.counts, spoken, kept)
    return Answers(y, table, index)


@operator("luna_moc::chosen")
def _chosen(
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    weights: Tensor,
    order: Tensor,
    inverse: Tensor,
    counts: Tensor,
    spoken: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What `luna_moe::experts` gives."""
    tokens, index, sizes = lay_out(x, order, inverse, counts, counts)
    runs, experts = counts.new_tensor(sizes), w2.shape[0]
    expert = torch.zeros_like(tokens)
    expert[: sum(sizes)] = torch.arange(experts, device=x.device).repeat_interleave(runs)
    table = spoken.flatten(0, 1).index_select(0, tokens * experts + expert)
    inner = kept.flatten(0, 1).index_select(0, expert * x.shape[0] + tokens)
    slope = x.new_empty(len(table), w2.shape[2])
    differentiate(inner, slope)
    y = sum_rows(table.to(weights.dtype), index, weights)
    return y, table, index.clone() if index is inverse else index, tokens, runs, inner, slope


@_chosen.register_fake
def _(
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    weights: Tensor,
    order: Tensor,
    inverse: Tensor,
    counts: Tensor,
    spoken: Tensor,
    kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return fake_answers(x, w13, w2, weights, inverse, counts)


_chosen.register_autograd(back_answers, setup_context=save_answers)
