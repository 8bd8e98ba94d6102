"""The full meeting's attention, as one operator: what each expert said attends to what the others said.

Shape letters: N tokens, E experts, D width, H heads, S = D/H.

For the outputs O (E, D) of one token, c_e = norm(O_e + Attention(O)_e), and the score of expert e is ⟨v, c_e⟩. Only the
score leaves, so for the backward pass the projections are kept and nothing else of size D; the rest is computed again
there, some tokens at a time. With one head two projections fold away, exactly:

    ⟨W_q O_e, W_k O_j⟩ = ⟨(W_kᵀ W_q) O_e, O_j⟩        W_o Σ_j a_ej W_v O_j = Σ_j a_ej (W_o W_v) O_j
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from luna_kernel.model.operator import operator

AT_ONCE = 2**19
"""Numbers of the outputs at a time, so that what stands between two matrix products stays near the processor."""
AT_ONCE_ELSEWHERE = 2**26
"""The same on other devices, which want much work at once."""


class Sides(NamedTuple):
    """Query, key, value (n, H, E, S) of some tokens."""

    query: Tensor
    key: Tensor
    value: Tensor


def confer(outputs: Tensor, qkv: Tensor, out: Tensor, score: Tensor, heads: int, eps: float) -> tuple[Tensor, Tensor]:
    """Scores of the experts from their attention to each other.

    Args:
        outputs: (N, E, D) in the dtype to compute in.
        qkv: (3D, D), rows of queries, keys and values.
        out: (D, D), behind the attention.
        score: (D,) v, in float32 at least, which the sums, the softmax and the norm are in too.
        heads: H.
        eps: of the norm.

    Returns:
        Scores (N, E) and attention (N, H, E, E), the latter without gradient, in the dtype of `score`.
    """
    d, low = outputs.shape[2], outputs.dtype
    if heads == 1 and outputs.shape[0] * outputs.shape[1] >= d:  # below that, folding costs more than it saves
        query, key, value = qkv.split(d)
        wide, out = torch.cat([key.t() @ query, out @ value]), out.new_empty(0, d)
    else:
        wide = qkv
    learn = outputs.requires_grad and torch.is_grad_enabled()
    kept = 0 if not torch.is_grad_enabled() else len(wide) if learn or len(out) else d
    scores, attention, _ = _confer(outputs, wide.to(low), out.to(low), score, heads, eps, kept, learn)
    return scores, attention.detach()


def _parts(outputs: Tensor) -> list[slice]:
    """Of the tokens."""
    n, e, d = outputs.shape
    at_once = AT_ONCE if outputs.device.type == "cpu" else AT_ONCE_ELSEWHERE
    size = max(16, at_once // (e * d))
    return [slice(start, start + size) for start in range(0, n, size)]


def _sides(said: Tensor, projected: Tensor, heads: int) -> Sides:
    """Of projections (n, E, D), values alone; (n, E, 2D), folded; or (n, E, 3D)."""
    n, e, d = said.shape
    parts = projected.view(n, e, -1, heads, d // heads).permute(2, 0, 3, 1, 4)
    if len(parts) == 3:
        return Sides(parts[0], parts[1], parts[2])
    return Sides(parts[0], said.unsqueeze(1), parts[-1])


def _hear(said: Tensor, spoken: Tensor, out: Tensor, exact: torch.dtype) -> Tensor:
    """O + Attention(O) for spoken (n, H, E, S)."""
    flat = spoken.transpose(1, 2).flatten(2)
    return (said + (F.linear(flat, out) if len(out) else flat)).to(exact)


def _scale(heard: Tensor, eps: float) -> Tensor:
    """What the norm multiplies heard (n, E, D) by, (n, E)."""
    return torch.rsqrt(torch.linalg.vector_norm(heard, dim=-1).square() / heard.shape[2] + eps)


@operator("luna_moc::confer")
def _confer(
    outputs: Tensor, wide: Tensor, out: Tensor, score: Tensor, heads: int, eps: float, keep: int, learn: bool
) -> tuple[Tensor, Tensor, Tensor]:
    n, e, d = outputs.shape
    scores, attention = score.new_empty(n, e), score.new_empty(n, heads, e, e)
    kept = outputs.new_empty(n, e, keep)
    with torch.autocast(outputs.device.type, enabled=False):
        for part in _parts(outputs):
            said = outputs[part]
            flat, space = said.flatten(0, 1), kept[part].flatten(0, 1)
            if keep == d < len(wide):  # the values alone are kept: let them be written where they stay
                torch.mm(flat, wide[d:].t(), out=space)
                side = Sides(F.linear(said, wide[:d]).unsqueeze(1), said.unsqueeze(1), kept[part].unsqueeze(1))
            else:
                projected = torch.mm(flat, wide.t(), out=space) if keep else torch.mm(flat, wide.t())
                side = _sides(said, projected.view(*said.shape[:2], -1), heads)
            dots = (side.query @ side.key.transpose(2, 3)).to(score.dtype)
            attention[part] = torch.softmax(dots.div_(math.sqrt(d // heads)), dim=-1)
            heard = _hear(said, attention[part].to(said.dtype) @ side.value, out, score.dtype)
            scores[part] = (heard @ score) * _scale(heard, eps)
    return scores, attention, kept


@_confer.register_fake
def _(
    outputs: Tensor, wide: Tensor, out: Tensor, score: Tensor, heads: int, eps: float, keep: int, learn: bool
) -> tuple[Tensor, Tensor, Tensor]:
    n, e, _ = outputs.shape
    kept = outputs.new_empty(n, e, keep)
    return score.new_empty(n, e), score.new_empty(n, heads, e, e), kept


@torch.library.custom_op("luna_moc::confer_backward", mutates_args=())
def _confer_backward(
    grad: Tensor,
    outputs: Tensor,
    wide: Tensor,
    out: Tensor,
    score: Tensor,
    attention: Tensor,
    kept: Tensor,
    heads: int,
    eps: float,
    learn: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of outputs (empty without `learn`), wide, out, score."""
    d = outputs.shape[2]
    exact, low = score.dtype, outputs.dtype
    grad_outputs = torch.empty_like(outputs) if learn else outputs.new_empty(0)
    grad_wide, grad_out, grad_score = torch.zeros_like(wide), torch.zeros_like(out), torch.zeros_like(score)
    folded = not len(out)
    with torch.autocast(outputs.device.type, enabled=False):
        for part in _parts(outputs):
            said, a = outputs[part], attention[part]
            side = _sides(said, kept[part], heads)
            a_low = a.to(low)
            spoken = a_low @ side.value
            heard = _hear(said, spoken, out, exact)
            grad_heard = _pull_back(grad[part], heard, score, grad_score, eps).to(low)
            flat = grad_heard.flatten(0, 1)
            if not folded:
                grad_out.addmm_(flat.t(), spoken.transpose(1, 2).flatten(2).flatten(0, 1))
            grad_spoken = grad_heard if folded else grad_heard @ out
            grad_spoken = grad_spoken.view(*said.shape[:2], heads, -1).transpose(1, 2)
            grad_a = (grad_spoken @ side.value.transpose(2, 3)).to(exact)
            grad_dots = a * (grad_a - (a * grad_a).sum(-1, keepdim=True)) / math.sqrt(d // heads)
            grad_dots = grad_dots.to(low)
            grad_parts = [grad_dots @ side.key, a_low.transpose(2, 3) @ grad_spoken]
            if not folded:
                grad_parts.insert(1, grad_dots.transpose(2, 3) @ side.query)
            for first, grad_part in enumerate(g.transpose(1, 2).reshape(-1, d) for g in grad_parts):
                rows = slice(first * d, (first + 1) * d)
                grad_wide[rows].addmm_(grad_part.t(), said.flatten(0, 1))
                if learn:
                    flat.addmm_(grad_part, wide[rows])  # grad_heard is not needed any more, and is part of the sum
            if learn and folded:
                grad_heard += (grad_dots.transpose(2, 3) @ side.query).squeeze(1)
            if learn:
                grad_outputs[part] = grad_heard
    return grad_outputs, grad_wide, grad_out, grad_score


def _pull_back(grad: Tensor, heard: Tensor, score: Tensor, grad_score: Tensor, eps: float) -> Tensor:
    """From the gradient (n, E) of ⟨v, norm(heard)⟩ to that of heard (n, E, D): v, less what the norm takes back along
    heard; adds to that of v on the way."""
    scale = _scale(heard, eps)
    pull = grad * scale
    grad_score += pull.flatten() @ heard.flatten(0, 1)
    along = pull * (heard @ score) * scale.square() / heard.shape[2]
    return torch.addcmul(pull.unsqueeze(-1) * score, along.unsqueeze(-1), heard, value=-1)


@_confer_backward.register_fake
def _(
    grad: Tensor,
    outputs: Tensor,
    wide: Tensor,
    out: Tensor,
    score: Tensor,
    attention: Tensor,
    kept: Tensor,
    heads: int,
    eps: float,
    learn: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_outputs = torch.empty_like(outputs) if learn else outputs.new_empty(0)
    return grad_outputs, torch.empty_like(wide), torch.empty_like(out), torch.empty_like(score)


def _save_confer(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:4], output[1], output[2])
    ctx.heads, ctx.eps, _, ctx.learn = inputs[4:]


def _back_confer(ctx: Any, grad: Tensor | None, *_unused: Any) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 8
    grads = _confer_backward(grad.contiguous(), *ctx.saved_tensors, ctx.heads, ctx.eps, ctx.learn)
    return (grads[0] if ctx.learn else None, *grads[1:], None, None, None, None)


_confer.register_autograd(_back_confer, setup_context=_save_confer)
