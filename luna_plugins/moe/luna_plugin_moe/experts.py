"""The experts' work, from the tokens to the weighted sum of what the chosen ones say, as one operator.

Shape letters: N tokens, K experts per token, M = N·K pairs, E experts, D width, F hidden width of an expert, R rows.

The pairs are laid out expert by expert, so that each expert works on one contiguous run of rows, as SwiGLU,
E(x) = W₂(silu(W₁x) ⊙ W₃x), or as W₂ gelu(W₁x). An expert without tokens is skipped, and one token costs only the
weights of its own experts. The number of rows per expert depends on the data, so the loop over experts sits in an
operator of its own: `torch.compile` sees fixed shapes and no break in the graph, and the backward pass is written out.
It needs no exponential: forward leaves behind what backward multiplies with, and not what that was made of. Devices
with grouped matrix products take those instead (`grouped.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from luna_kernel.model.linear import has_kernel_per_shape, linear

from .dispatch import ROWS_AT_ONCE, Plan, combine, sum_rows
from .grouped import can_group, grouped_mlp

FEW_ROWS = 64
"""Pairs up to which they are prepared together: a token at a time, of one text or of a batch."""


NARROW = 256
"""Columns up to which a float32 product with a long sum is faster as two of half the length (a tenth, with oneDNN)."""


class Answers(NamedTuple):
    """What the chosen experts say."""

    y: Tensor
    """(N, D), Σ_k weights[n, k] E_k(x_n), in the dtype of the weights."""
    table: Tensor
    """(R, D) what each of them says, unweighted, in the dtype of x; R is M or more."""
    index: Tensor
    """(N, K) the table's row of each pair. Those that were turned away share a row of zeros."""


def run_experts(x: Tensor, w13: Tensor, w2: Tensor, weights: Tensor, plan: Plan) -> Answers:
    """Run every token through its experts.

    Args:
        x: (N, D) in the dtype to compute in.
        w13: (E, 2F, D) the gates' and values' weights of SwiGLU, or (E, F, D) those of GELU, in any dtype: an expert's
            weights are cast when it runs, so one token does not pay for all experts, and no cast weights go through
            memory, nor do gradients in the dtype of x.
        w2: (E, D, F).
        weights: (N, K) of the chosen experts, in float32 at least.
        plan: of `make_plan`.
    """
    if can_group(x, w2):
        table = grouped_mlp(x, w13.to(x.dtype), w2.to(x.dtype), plan)
        return Answers(combine(table, weights, plan.inverse), table, plan.inverse)
    kept = plan.counts if plan.kept is None else plan.kept
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        y, table, index, *_ = _experts(x, w13, w2, weights, plan.order, plan.inverse, plan.counts, kept)
        return Answers(y, table, index)
    with torch.autocast(x.device.type, enabled=False):
        if plan.kept is None and plan.order.numel() <= FEW_ROWS:
            table, index = _few(x, w13, w2, plan), plan.inverse
        else:
            table, index = _without_gradients(x, w13, w2, plan, kept)
        return Answers(sum_rows(table.to(weights.dtype), index, weights), table, index)


class Layout(NamedTuple):
    """Rows for the pairs, expert by expert, and behind each expert's pairs as many as are multiplied beside them."""

    tokens: Tensor
    """(R,) of each row; token 0 where there is no pair."""
    index: Tensor
    """(N, K) the row of each pair, the last of all for those that are turned away: it is no expert's."""
    sizes: list[int]
    """Rows of each expert, from the first row on."""


def num_rows(pairs: int) -> int:
    """R for M pairs, whatever their experts: with as many more as `rounded` may add, and one for those turned away."""
    return pairs + pairs // 32 + 1


def rounded(rows: int, x: Tensor, *, keep: bool = True) -> int:
    """How many rows to multiply for an expert that has `rows`: so many, or up to a thirty-second more.

    The number of rows changes with every step, and oneDNN prepares each shape that it sees for the first time. Of the
    numbers up to any n there are at most 32 log₂ n such as these, so it soon has seen them all.
    """
    if not has_kernel_per_shape(x, gradients=keep):
        return rows
    step = 1 << max(0, rows.bit_length() - 6)
    return -(-rows // step) * step


def lay_out(x: Tensor, order: Tensor, inverse: Tensor, counts: Tensor, kept: Tensor, *, keep: bool = True) -> Layout:
    """Rows for the pairs of a plan of x; `keep`: there will be gradients."""
    pairs, top_k = order.numel(), max(inverse.shape[1], 1)
    rows = num_rows(pairs)
    given, used = counts.tolist(), kept.tolist()
    sizes = [rounded(size, x, keep=keep) for size in used]
    place = torch.arange(pairs, device=order.device)
    if sizes != given or used != given:  # rounding up may hide that pairs were turned away
        shifts, begin, pair = [], 0, 0
        for size, count in zip(sizes, given, strict=True):
            shifts.append(begin - pair)
            begin, pair = begin + size, pair + count
        row = place + torch.tensor(shifts, device=order.device).repeat_interleave(counts, output_size=pairs)
        if used != given:
            first = (counts.cumsum(0) - counts).repeat_interleave(counts, output_size=pairs)
            row = row.where(place - first < kept.repeat_interleave(counts, output_size=pairs), rows - 1)
        index = row[inverse]
    else:
        row, index = place, inverse
    tokens = order.new_zeros(rows).index_copy_(0, row, order // top_k)
    return Layout(tokens, index, sizes)


def _runs(sizes: list[int], *tensors: Tensor) -> Any:
    """The rows of each expert, of tensors (R, …)."""
    return zip(sizes, *(tensor[: sum(sizes)].split(sizes) for tensor in tensors), strict=True)


def differentiate(inner: Tensor, slope: Tensor) -> Tensor:
    """From pre-activations to what the products after them need, forward and backward; gives the hidden layer (n, F).

    Args:
        inner: (n, 2F) of gates g and values v, which silu(g) and the hidden layer, silu(g) ⊙ v, take the place of; or
            (n, F) of GELU, which the hidden layer takes the place of.
        slope: (n, F), which is written: v ⊙ silu'(g), or gelu'.
    """
    hidden = slope.shape[1]
    if inner.shape[1] == hidden:
        torch.ops.aten.gelu_backward.grad_input(inner.new_ones(()).expand_as(inner), inner, grad_input=slope)
        return torch.ops.aten.gelu_(inner)  # type: ignore[no-any-return]
    gate, value = inner.split(hidden, 1)
    torch.ops.aten.silu_backward.grad_input(value, gate, grad_input=slope)
    return value.mul_(torch.ops.aten.silu_(gate))


def _activate(inner: Tensor, out: Tensor) -> Tensor:
    """The hidden layer (n, F) of pre-activations (n, 2F) of SwiGLU or (n, F) of GELU, written into `out`."""
    hidden = out.shape[1]
    if inner.shape[1] == hidden:
        return torch.ops.aten.gelu.out(inner, out=out)  # type: ignore[no-any-return]
    return torch.ops.aten.silu.out(inner[:, :hidden], out=out).mul_(inner[:, hidden:])  # type: ignore[no-any-return]


def _few(x: Tensor, w13: Tensor, w2: Tensor, plan: Plan) -> Tensor:
    """(M, D) in the plan's order; all but the products is done for all experts at once: calls cost more than a few
    rows do."""
    rows = x.index_select(0, plan.order // plan.inverse.shape[1])
    inner, act = x.new_empty(rows.shape[0], w13.shape[1]), x.new_empty(rows.shape[0], w2.shape[2])
    sizes = plan.counts.tolist()
    for expert, (size, mine, before) in enumerate(_runs(sizes, rows, inner)):
        if size:
            torch.mm(mine, w13[expert].to(x.dtype).t(), out=before)
    _activate(inner, act)
    for expert, (size, hidden, said) in enumerate(_runs(sizes, act, rows)):
        if size:
            torch.mm(hidden, w2[expert].to(x.dtype).t(), out=said)
    return rows


def _without_gradients(x: Tensor, w13: Tensor, w2: Tensor, plan: Plan, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The table (R, D) and the index (N, K)."""
    layout = lay_out(x, plan.order, plan.inverse, plan.counts, kept, keep=False)
    table = _gather(x, layout.tokens)
    act = x.new_empty(max(layout.sizes, default=0), w2.shape[2])
    for expert, (size, rows) in enumerate(_runs(layout.sizes, table)):
        if size:
            hidden = _activate(linear(rows, w13[expert].to(x.dtype)), act[:size])
            rows.copy_(linear(hidden, w2[expert].to(x.dtype)))
    return table, layout.index


def _gather(x: Tensor, tokens: Tensor) -> Tensor:
    """(R, D) rows of x, the last of them zero."""
    rows = x.index_select(0, tokens) if len(x) else x.new_empty(len(tokens), x.shape[1])
    rows[-1] = 0
    return rows


@torch.library.custom_op("luna_moe::experts", mutates_args=())
def _experts(
    x: Tensor, w13: Tensor, w2: Tensor, weights: Tensor, order: Tensor, inverse: Tensor, counts: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, table, index, and for the backward pass tokens, sizes, what `differentiate` leaves, and the slope."""
    with torch.autocast(x.device.type, enabled=False):
        layout = lay_out(x, order, inverse, counts, kept)
        table = _gather(x, layout.tokens)
        inner, slope = (x.new_empty(len(table), width) for width in (w13.shape[1], w2.shape[2]))
        for first, second, (size, rows, before, rate) in zip(
            w13.unbind(), w2.unbind(), _runs(layout.sizes, table, inner, slope), strict=True
        ):
            if size:
                torch.mm(rows, first.to(x.dtype).t(), out=before)
                torch.mm(differentiate(before, rate), second.to(x.dtype).t(), out=rows)  # the rows have been used
        y = sum_rows(table.to(weights.dtype), layout.index, weights)
        index = layout.index.clone() if layout.index is inverse else layout.index
        return y, table, index, layout.tokens, counts.new_tensor(layout.sizes), inner, slope


@_experts.register_fake
def _(
    x: Tensor, w13: Tensor, w2: Tensor, weights: Tensor, order: Tensor, inverse: Tensor, counts: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return fake_answers(x, w13, w2, weights, inverse, counts)


def fake_answers(
    x: Tensor, w13: Tensor, w2: Tensor, weights: Tensor, inverse: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the operator gives, without the numbers."""
    rows, d = num_rows(inverse.numel()), x.shape[1]
    spaces = (x.new_empty(rows, width) for width in (d, w13.shape[1], w2.shape[2]))
    table, inner, slope = spaces
    tokens = inverse.new_empty(rows)
    return weights.new_empty(len(x), d), table, inverse.new_empty(inverse.shape), tokens, counts.clone(), inner, slope


@torch.library.custom_op("luna_moe::experts_backward", mutates_args=())
def _experts_backward(
    grad_y: Tensor | None,
    grad_table: Tensor | None,
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    weights: Tensor,
    table: Tensor,
    index: Tensor,
    tokens: Tensor,
    sizes: Tensor,
    inner: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, w13, w2 and the weights."""
    with torch.autocast(x.device.type, enabled=False):
        grad, grad_weights = _pull_back(grad_y, grad_table, weights, table, index, tokens)
        rows = _gather(x, tokens)
        grad_w13, grad_w2 = torch.empty_like(w13), torch.empty_like(w2)
        runs, hidden = sizes.tolist(), w2.shape[2]
        longest = max(runs, default=0)
        pulls, boths = x.new_empty(longest, hidden), x.new_empty(longest, w13.shape[1])
        *factors, hiddens = inner.split(hidden, 1)  # silu of the gate, if there is one, and the hidden layer
        for first, second, out13, out2, (size, mine, said, act, *rates) in zip(
            *(w.unbind() for w in (w13, w2, grad_w13, grad_w2)),
            _runs(runs, rows, grad, hiddens, slope, *factors),
            strict=True,
        ):
            if not size:
                out13.zero_()
                out2.zero_()
                continue
            pull, both = pulls[:size], boths[:size]
            torch.mm(said, second.to(x.dtype), out=pull)
            _outer(said, act, out2)
            for rate, part in zip(rates, both.split(hidden, 1), strict=True):
                torch.mul(pull, rate, out=part)
            _outer(both, mine, out13)
            _times(both, first.to(x.dtype), mine)  # the rows have been used: their gradient takes their place
        return sum_rows(rows, index), grad_w13, grad_w2, grad_weights


def _pull_back(
    grad_y: Tensor | None,
    grad_table: Tensor | None,
    weights: Tensor,
    table: Tensor,
    index: Tensor,
    tokens: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of the table (R, D), zero where there is no pair, in its dtype; and of the weights (N, K)."""
    flat, zeros = index.flatten(), weights.new_zeros(len(table))
    if grad_y is None or not len(grad_y):
        grad, dots = torch.zeros_like(table), zeros
    else:
        grad, dots = torch.empty_like(table), torch.empty_like(zeros)
        scale = zeros.index_copy(0, flat, weights.flatten())
        at_once = ROWS_AT_ONCE if table.device.type == "cpu" else len(table)
        for start in range(0, len(table), at_once):
            part = slice(start, start + at_once)
            rows = grad_y.index_select(0, tokens[part])
            dots[part] = torch.linalg.vecdot(rows, table[part].to(rows.dtype))
            grad[part] = rows.mul_(scale[part].unsqueeze(1))
    if grad_table is not None:
        grad += grad_table * zeros.index_fill(0, flat, 1).to(grad.dtype).unsqueeze(1)
    return grad, dots.index_select(0, flat).view_as(weights)


def _times(left: Tensor, right: Tensor, out: Tensor) -> None:
    """left right, of (n, a) and (a, b), into `out` (n, b)."""
    half = left.shape[1] // 2
    if out.shape[1] > NARROW or out.dtype != torch.float32 or out.device.type != "cpu":
        torch.mm(left, right, out=out)
    else:
        torch.mm(left[:, :half], right[:half], out=out).addmm_(left[:, half:], right[half:])


def _outer(left: Tensor, right: Tensor, out: Tensor) -> None:
    """leftᵀ right, of (n, a) and (n, b), into `out` (a, b) of any dtype."""
    if out.dtype == left.dtype:
        torch.mm(left.t(), right, out=out)
    else:
        out.copy_(left.t() @ right)


@_experts_backward.register_fake
def _(
    grad_y: Tensor | None,
    grad_table: Tensor | None,
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    weights: Tensor,
    *_kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_x, grad_weights = (tensor.new_empty(tensor.shape) for tensor in (x, weights))  # in rows, however those lie
    return grad_x, torch.empty_like(w13), torch.empty_like(w2), grad_weights


def save_answers(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """For an operator that takes x, w13, w2, weights and more, and gives what `fake_answers` does."""
    ctx.set_materialize_grads(False)
    ctx.rest = len(inputs) - 4
    ctx.save_for_backward(*inputs[:4], *output[1:])


def back_answers(ctx: Any, grad_y: Tensor | None, grad_table: Tensor | None, *_unused: Any) -> tuple[Any, ...]:
    """The other half of `save_answers`."""
    if grad_y is None and grad_table is None:
        return (None,) * (4 + ctx.rest)
    return (*_experts_backward(grad_y, grad_table, *ctx.saved_tensors), *(None,) * ctx.rest)


_experts.register_autograd(back_answers, setup_context=save_answers)
