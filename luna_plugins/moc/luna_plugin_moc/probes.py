"""The preliminary meeting of the low-rank context, as one operator with its backward pass written out.

Shape letters: N tokens, E experts, D width, R rank of a probe, H heads, W = H·R + 1 + H.

Its products are small, so what counts is how many there are: all that one probe is multiplied with stands side by side
in one matrix, and of the softmax' gradient only what reaches the scores is taken.
"""

from __future__ import annotations

from typing import Any

import torch
from luna_plugin_moe.routing import softmax
from torch import Tensor

from luna_kernel.model.operator import operator


def meet(
    x: Tensor, down: Tensor, probe: Tensor, bias: Tensor, wide: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the experts from their probes' attention to each other.

    With z = down x and p_e = silu(probe_e z + bias_e), the logits of head h are p_eᵀ A_h p_j, and the score of expert e
    is ⟨s, p_e⟩ + Σ_h Σ_j a_hej ⟨v_h, p_j⟩.

    Args:
        x: (N, D).
        down: (R, D).
        probe: (E·R, R), one expert's rows after the other's.
        bias: (E·R,).
        wide: (R, W), the columns of A_1 to A_H, of s, and of v_1 to v_H.
        heads: H.

    Returns:
        Scores (N, E); the probes (N, E, R); and a (N, H, E, E), who listened to whom, without gradient.
    """
    scores, probes, attention, *_ = _meet(x, down, probe, bias, wide, heads)
    return scores, probes, attention.detach().transpose(1, 2)


def _parts(both: Tensor, n: int, experts: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """What is asked (N, E·H, R), the scores of the probes themselves (N, E), and the values (N, H, E)."""
    asked, direct, values = both.split([both.shape[1] - 1 - heads, 1, heads], 1)
    rows = asked.reshape(n, experts * heads, asked.shape[1] // heads)
    return rows, direct.view(n, experts), values.reshape(n, experts, heads).transpose(1, 2)


@operator("luna_moc::meet")
def _meet(
    x: Tensor, down: Tensor, probe: Tensor, bias: Tensor, wide: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scores, probes, attention (N, E, H, E); and for the backward pass z (N, R), the probes before silu (N·E, R), the
    probes times `wide` (N·E, W), and what each head heard (N, E, H)."""
    n, rank = x.shape[0], down.shape[0]
    experts = bias.shape[0] // rank
    with torch.autocast(x.device.type, enabled=False):
        z = x @ down.t()
        flat = torch.addmm(bias, z, probe.t()).view(n * experts, rank)
        probes = torch.nn.functional.silu(flat)
        both = probes @ wide
        asked, direct, values = _parts(both, n, experts, heads)
        logits = asked @ probes.view(n, experts, rank).transpose(1, 2)
        attention = softmax(logits.flatten(0, 1)).contiguous().view(n, experts, heads, experts)
        heard = (attention * values.unsqueeze(1)).sum(-1)
        scores = direct + heard.sum(-1)
        return scores, probes.view(n, experts, rank), attention, z, flat, both, heard


@_meet.register_fake
def _(
    x: Tensor, down: Tensor, probe: Tensor, bias: Tensor, wide: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, rank = x.shape[0], down.shape[0]
    experts = bias.shape[0] // rank
    shapes = (
        (n, experts), (n, experts, rank), (n, experts, heads, experts), (n, rank), (n * experts, rank),
        (n * experts, wide.shape[1]), (n, experts, heads),
    )  # fmt: skip
    return tuple(x.new_empty(shape) for shape in shapes)  # type: ignore[return-value]


@torch.library.custom_op("luna_moc::meet_backward", mutates_args=())
def _meet_backward(
    grad_scores: Tensor | None,
    grad_probes: Tensor | None,
    x: Tensor,
    down: Tensor,
    probe: Tensor,
    wide: Tensor,
    probes: Tensor,
    attention: Tensor,
    z: Tensor,
    flat: Tensor,
    both: Tensor,
    heard: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, down, probe, bias, wide.

    With g the gradient of the scores, that of the logit of e and j in head h is g_e a_hej (⟨v_h, p_j⟩ − heard_eh).
    """
    with torch.autocast(x.device.type, enabled=False):
        n, experts, rank = probes.shape
        heads = heard.shape[2]
        grad = torch.zeros_like(flat) if grad_probes is None else grad_probes.reshape(flat.shape)
        grad_wide = torch.zeros_like(wide)
        if grad_scores is not None:
            asked, _, values = _parts(both, n, experts, heads)
            pulled = attention * grad_scores[:, :, None, None]
            grad_values = pulled.sum(1).transpose(1, 2).reshape(n * experts, heads)
            grad_logits = pulled.mul_(values.unsqueeze(1) - heard.unsqueeze(3)).view(n, experts * heads, experts)
            grad_asked = (grad_logits @ probes).view(n * experts, heads * rank)
            grad_both = torch.cat([grad_asked, grad_scores.reshape(-1, 1), grad_values], 1)
            grad = torch.addmm(grad, grad_both, wide.t()).view(probes.shape)
            grad = torch.baddbmm(grad, grad_logits.transpose(1, 2), asked).view(flat.shape)
            grad_wide = probes.flatten(0, 1).t() @ grad_both
        grad_flat = torch.ops.aten.silu_backward(grad, flat).view(n, experts * rank)
        grad_z = grad_flat @ probe
        return grad_z @ down, grad_z.t() @ x, grad_flat.t() @ z, grad_flat.sum(0), grad_wide


@_meet_backward.register_fake
def _(
    grad_scores: Tensor | None,
    grad_probes: Tensor | None,
    x: Tensor,
    down: Tensor,
    probe: Tensor,
    wide: Tensor,
    *_: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = tuple(tensor.new_empty(tensor.shape) for tensor in (x, down, probe))
    return *like, probe.new_empty(probe.shape[0]), wide.new_empty(wide.shape)


def _save_meet(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    x, down, probe, _, wide, _ = inputs
    ctx.save_for_backward(x, down, probe, wide, *output[1:])


def _back_meet(ctx: Any, grad_scores: Tensor | None, grad_probes: Tensor | None, *_unused: Any) -> tuple[Any, ...]:
    if grad_scores is None and grad_probes is None:
        return (None,) * 6
    return (*_meet_backward(grad_scores, grad_probes, *ctx.saved_tensors), None)


_meet.register_autograd(_back_meet, setup_context=_save_meet)
