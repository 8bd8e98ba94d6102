"""Sending tokens to their experts and back: nothing is dropped unless a capacity is given, so no token sees another.

Shape letters: N tokens, K experts per token, M = N·K, E experts, D width, F hidden width of an expert, R rows of a
table.

The (token, expert) pairs are sorted by expert; each expert then works on one contiguous run of rows, as SwiGLU,
E(x) = W₂(silu(W₁x) ⊙ W₃x), or as W₂ gelu(W₁x). An expert without tokens is skipped, and one token costs only the
weights of its own experts. The number of rows per expert depends on the data, so the loop over experts sits in
operators of its own: `torch.compile` sees fixed shapes and no break in the graph, and the backward pass is written out,
which keeps only the pre-activations. Devices with grouped matrix products take those instead (`grouped.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from luna_kernel.model.linear import has_kernel_per_shape, linear
from luna_kernel.model.operator import operator

from .grouped import can_group, grouped_mlp

ROWS_AT_ONCE = 1024
"""Rows of one elementwise pass, so that they stay in the processor's cache."""
FEW_ROWS = 64
"""Pairs up to which they are prepared together: a token at a time, of one text or of a batch."""


class Plan(NamedTuple):
    """Which row goes where."""

    order: Tensor
    """(M,) the pairs (token · K + slot), sorted by expert; stable, so equal routing gives equal order."""
    inverse: Tensor
    """(N, K) the sorted row of each pair."""
    counts: Tensor
    """(E,) rows of each expert."""
    kept: Tensor | None = None
    """(E,) how many of them, the first ones, it works on; None: all. What the others give is zero."""


def make_plan(experts: Tensor, num_experts: int, capacity: Tensor | None = None, mask: Tensor | None = None) -> Plan:
    """Sort the pairs by expert.

    Args:
        experts: (N, K) int64.
        num_experts: E.
        capacity: a scalar, the most rows that an expert takes, the first tokens first; None: it takes all.
        mask: (N,) bool, tokens that count: only padding is turned away before the last of these.
    """
    flat = experts.reshape(-1)
    counts = count_experts(experts, num_experts)
    kept = None
    key = flat
    if capacity is not None:
        kept = counts.minimum(capacity.to(counts.dtype))
        if mask is not None:
            key = 2 * flat + (~mask).repeat_interleave(experts.shape[1])
    order = torch.argsort(key, stable=True)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(flat.numel(), device=flat.device))
    return Plan(order, inverse.view_as(experts), counts, kept)


def count_experts(experts: Tensor, num_experts: int, mask: Tensor | None = None) -> Tensor:
    """(E,) int64: how many of the pairs `experts` (N, K) each expert has; `mask` (N,) leaves tokens out."""
    hits = experts.unsqueeze(-1) == torch.arange(num_experts, device=experts.device)
    if mask is not None:
        hits = hits & mask[:, None, None]
    return hits.sum((0, 1))


def expert_mlp(x: Tensor, w13: Tensor, w2: Tensor, plan: Plan) -> Tensor:
    """Run every token through its experts.

    Args:
        x: (N, D) in the dtype to compute in.
        w13: (E, 2F, D) the gates' and values' weights of SwiGLU, or (E, F, D) those of GELU, in any dtype: an expert's
            weights are cast when it runs, so one token does not pay for all experts, and no cast weights go through
            memory, nor do gradients in the dtype of x.
        w2: (E, D, F).
        plan: of `make_plan`.

    Returns:
        (M, D) outputs, unweighted, in the plan's order; row `plan.inverse[n, k]` is slot k of token n.
    """
    if can_group(x, w2):
        return grouped_mlp(x, w13.to(x.dtype), w2.to(x.dtype), plan)
    kept = plan.counts if plan.kept is None else plan.kept
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        y: Tensor = _mlp_op(x, w13, w2, plan.order, plan.counts, kept)[0]
        return y
    with torch.autocast(x.device.type, enabled=False):
        if plan.kept is None and plan.order.numel() <= FEW_ROWS:
            return _mlp_of_few(x, w13, w2, plan)
        return _mlp(x, w13, w2, plan.order, plan.counts, kept, keep=False)[0]


def _mlp_of_few(x: Tensor, w13: Tensor, w2: Tensor, plan: Plan) -> Tensor:
    """What `_mlp` gives; all but the products is done for all experts at once: calls cost more than a few rows do."""
    rows = x.index_select(0, plan.order // plan.inverse.shape[1])
    inner = x.new_empty(rows.shape[0], w13.shape[1])
    spans = enumerate(_runs(plan.counts, plan.counts))
    runs = [(expert, slice(start, end)) for expert, (start, end, _) in spans if end > start]
    for expert, run in runs:
        torch.mm(rows[run], w13[expert].to(x.dtype).t(), out=inner[run])
    act, y = _activate(inner, x.new_empty(rows.shape[0], w2.shape[2])), torch.empty_like(rows)
    for expert, run in runs:
        torch.mm(act[run], w2[expert].to(x.dtype).t(), out=y[run])
    return y


def _runs(counts: Tensor, kept: Tensor) -> list[tuple[int, int, int]]:
    """(first row, end of what is worked on, end of all rows) of each expert."""
    runs, start = [], 0
    for count, used in zip(counts.tolist(), kept.tolist(), strict=True):
        runs.append((start, start + used, start + count))
        start += count
    return runs


def rounded(rows: int, x: Tensor, *, keep: bool = True) -> int:
    """How many rows to multiply for an expert that has `rows`: so many, or up to a thirty-second more.

    The number of rows changes with every step, and oneDNN prepares each shape that it sees for the first time. Of the
    numbers up to any n there are at most 32 log₂ n such as these, so it soon has seen them all.
    """
    if not has_kernel_per_shape(x, gradients=keep):
        return rows
    step = 1 << max(0, rows.bit_length() - 6)
    return -(-rows // step) * step


def _mlp(
    x: Tensor, w13: Tensor, w2: Tensor, order: Tensor, counts: Tensor, kept: Tensor, *, keep: bool
) -> tuple[Tensor, Tensor]:
    """Outputs (M, D), and with `keep` the pre-activations (M, 2F or F)."""
    rows, width, hidden = order.numel(), w13.shape[1], w2.shape[2]
    tokens = order // (rows // max(x.shape[0], 1)) if rows else order
    runs = _runs(counts, kept)
    longest = max((rounded(end - start, x, keep=keep) for start, end, _ in runs), default=0)
    # More rows are multiplied than an expert has. What comes of them falls on the rows of those after it, which are
    # written later, or behind the last.
    y = x.new_empty(rows + longest, x.shape[1])
    before = x.new_empty(rows + longest if keep else 0, width)
    mine, act = x.new_zeros(longest, x.shape[1]), x.new_zeros(longest, hidden)
    for expert, (start, end, last) in enumerate(runs):
        size, more = end - start, rounded(end - start, x, keep=keep)
        if size:
            torch.index_select(x, 0, tokens[start:end], out=mine[:size])
            first, second = w13[expert].to(x.dtype), w2[expert].to(x.dtype)
            rows_of_y = y[start : start + more]
            if keep:
                inner = torch.mm(mine[:more], first.t(), out=before[start : start + more])
                _activate(inner[:size], act[:size])
                torch.mm(act[:more], second.t(), out=rows_of_y)
            else:
                _activate(linear(mine[:more], first)[:size], act[:size])
                rows_of_y.copy_(linear(act[:more], second))
        if end < last:
            y[end:last] = 0
    return y[:rows], before[: rows if keep else 0]


def _activate(inner: Tensor, out: Tensor) -> Tensor:
    """The hidden layer (rows, F) of pre-activations (rows, 2F) of SwiGLU or (rows, F) of GELU, written into `out`."""
    hidden = out.shape[1]
    if inner.shape[1] == hidden:
        return torch.ops.aten.gelu.out(inner, out=out)  # type: ignore[no-any-return]
    return torch.ops.aten.silu.out(inner[:, :hidden], out=out).mul_(inner[:, hidden:])  # type: ignore[no-any-return]


@torch.library.custom_op("luna_moe::expert_mlp", mutates_args=())
def _mlp_op(x: Tensor, w13: Tensor, w2: Tensor, order: Tensor, counts: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        return _mlp(x, w13, w2, order, counts, kept, keep=True)


@_mlp_op.register_fake
def _(x: Tensor, w13: Tensor, w2: Tensor, order: Tensor, counts: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(order.shape[0], x.shape[1]), x.new_empty(order.shape[0], w13.shape[1])


@torch.library.custom_op("luna_moe::expert_mlp_backward", mutates_args=())
def expert_mlp_backward(
    grad_y: Tensor, x: Tensor, w13: Tensor, w2: Tensor, order: Tensor, counts: Tensor, kept: Tensor, before: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, w13 and w2, from that of what `expert_mlp` gives and from the pre-activations.

    Args:
        grad_y: (M, D) in the plan's order.
        x, w13, w2: as `expert_mlp` takes them.
        order, counts, kept: the plan's; `kept` is `counts` where nothing is turned away.
        before: (M, 2F) or (M, F) in the plan's order.
    """
    with torch.autocast(x.device.type, enabled=False):
        return _mlp_backward(grad_y, x, w13, w2, order, counts, kept, before)


def _mlp_backward(
    grad_y: Tensor, x: Tensor, w13: Tensor, w2: Tensor, order: Tensor, counts: Tensor, kept: Tensor, before: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    rows, width, hidden = order.numel(), w13.shape[1], w2.shape[2]
    top_k = rows // max(x.shape[0], 1) or 1
    tokens = order // top_k
    grad_w13, grad_w2 = torch.empty_like(w13), torch.empty_like(w2)
    runs = _runs(counts, kept)
    longest = max((rounded(end - start, x) for start, end, _ in runs), default=0)
    grad_rows = x.new_empty(rows, x.shape[1])
    scratch = [x.new_empty(longest, columns) for columns in (hidden, hidden, width)]
    scratch += [x.new_zeros(longest, x.shape[1]) for _ in range(2)]  # finite where they meet zeros below
    for expert, (start, end, last) in enumerate(runs):
        size, more = end - start, rounded(end - start, x)
        if end < last:
            grad_rows[end:last] = 0
        if not size:
            grad_w13[expert].zero_()
            grad_w2[expert].zero_()
            continue
        act, grad_act, both, mine, grad = (buffer[:more] for buffer in scratch)
        grad[:size].copy_(grad_y[start:end])
        torch.mm(grad, w2[expert].to(x.dtype), out=grad_act)
        _activate_backward(before[start:end], grad_act[:size], act[:size], both[:size])
        act[size:].zero_()  # what an earlier expert left there would count in the gradients of this one's weights
        both[size:].zero_()
        _outer(grad, act, grad_w2[expert])
        torch.index_select(x, 0, tokens[start:end], out=mine[:size])
        _outer(both, mine, grad_w13[expert])
        torch.mm(both, w13[expert].to(x.dtype), out=grad)
        grad_rows[start:end] = grad[:size]
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(rows, device=order.device))
    return _sum_rows(grad_rows, inverse.view(-1, top_k)), grad_w13, grad_w2


def _outer(left: Tensor, right: Tensor, out: Tensor) -> None:
    """leftᵀ right, of (rows, a) and (rows, b), into `out` (a, b) of any dtype."""
    if out.dtype == left.dtype:
        torch.mm(left.t(), right, out=out)
    else:
        out.copy_(left.t() @ right)


def _activate_backward(inner: Tensor, grad_act: Tensor, act: Tensor, both: Tensor) -> None:
    """Write the activation again into `act`, and the gradient of the pre-activation into `both`; spoils `grad_act`."""
    hidden = act.shape[1]
    if inner.shape[1] == hidden:
        torch.ops.aten.gelu.out(inner, out=act)
        torch.ops.aten.gelu_backward.grad_input(grad_act, inner, grad_input=both)
        return
    gate, value = inner[:, :hidden], inner[:, hidden:]
    torch.ops.aten.silu.out(gate, out=act)
    torch.mul(grad_act, act, out=both[:, hidden:])
    torch.ops.aten.silu_backward.grad_input(grad_act.mul_(value), gate, grad_input=both[:, :hidden])
    act.mul_(value)


@expert_mlp_backward.register_fake
def _(
    grad_y: Tensor, x: Tensor, w13: Tensor, w2: Tensor, order: Tensor, counts: Tensor, kept: Tensor, before: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(w13), torch.empty_like(w2)


def _save_mlp(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, output[1])


def _back_mlp(ctx: Any, grad_y: Tensor | None, *_unused: Any) -> tuple[Any, ...]:
    if grad_y is None:
        return (None,) * 6
    return (*expert_mlp_backward(grad_y.contiguous(), *ctx.saved_tensors), None, None, None)


_mlp_op.register_autograd(_back_mlp, setup_context=_save_mlp)


def _sum_rows(table: Tensor, index: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σ_k weights[n, k] · table[index[n, k]] -> (N, D), summed in slot order, so the result is deterministic."""
    if not index.numel():
        return table.new_zeros(index.shape[0], table.shape[1])
    return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


def combine(table: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """The weighted sum of the chosen experts' outputs, in float32 at least.

    Args:
        table: (R, D) outputs.
        weights: (N, K) float32 (float64 with a float64 table).
        index: (N, K) int64 rows of the table; no row occurs twice.

    Returns:
        (N, D), Σ_k weights[n, k] · table[index[n, k]], in the dtype of `weights`.
    """
    y: Tensor = _combine_op(table, weights, index)
    return y


@operator("luna_moe::combine")
def _combine_op(table: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    return _sum_rows(table.to(weights.dtype), index, weights)


@_combine_op.register_fake
def _(table: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    return weights.new_empty(index.shape[0], table.shape[1])


@torch.library.custom_op("luna_moe::combine_backward", mutates_args=())
def _combine_backward_op(grad: Tensor, table: Tensor, weights: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    grad_table = torch.empty_like(table) if table.shape[0] == index.numel() else torch.zeros_like(table)
    grad_weights = torch.empty_like(weights)
    at_once = ROWS_AT_ONCE if grad.device.type == "cpu" else max(1, index.shape[0])
    for start in range(0, index.shape[0], at_once):
        part = slice(start, start + at_once)
        for slot in range(index.shape[1]):
            rows = index[part, slot]
            grad_weights[part, slot] = (grad[part] * table.index_select(0, rows)).sum(-1)
            grad_table.index_copy_(0, rows, (grad[part] * weights[part, slot, None]).to(table.dtype))
    return grad_table, grad_weights


@_combine_backward_op.register_fake
def _(grad: Tensor, table: Tensor, weights: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(table), torch.empty_like(weights)


def _save_combine(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _back_combine(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return (*_combine_backward_op(grad.contiguous(), *ctx.saved_tensors), None)


_combine_op.register_autograd(_back_combine, setup_context=_save_combine)
