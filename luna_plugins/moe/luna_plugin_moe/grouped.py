"""Sparse experts as two grouped matrix products, for devices that have them: nothing is counted on the host.

One kernel multiplies each expert's rows with that expert's matrix, wherever its rows begin and end, so that no device
waits until the processor knows how many rows an expert has. The same function as `dispatch.expert_mlp`, which runs one
expert after the other and suits a processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .dispatch import Plan

ALIGNMENT = 8
"""Of both widths, in numbers of two bytes: the kernels read 16 bytes at once."""


def can_group(x: Tensor, w2: Tensor) -> bool:
    """Whether `grouped_mlp` runs on this device, in this dtype, with these widths."""
    return (
        x.device.type == "cuda"
        and x.dtype == torch.bfloat16
        and w2.shape[1] % ALIGNMENT == w2.shape[2] % ALIGNMENT == 0
        and hasattr(F, "grouped_mm")
    )


def grouped_mlp(x: Tensor, w13: Tensor, w2: Tensor, plan: Plan) -> Tensor:
    """Run every token through its experts.

    Args:
        x: (N, D).
        w13: (E, 2F, D) the gates' and values' weights of SwiGLU, or (E, F, D) those of GELU, in the dtype of x.
        w2: (E, D, F).
        plan: of `make_plan`.

    Returns:
        (M, D) outputs, unweighted, in the plan's order, as `expert_mlp` gives them.
    """
    ends = plan.counts.cumsum(0)
    offsets = ends.to(torch.int32)
    rows: Tensor = _Dispatch.apply(x, plan.order, plan.inverse)  # type: ignore[no-untyped-call]
    inner = F.grouped_mm(rows, w13.transpose(1, 2), offs=offsets)
    if w13.shape[1] == w2.shape[2]:
        act = F.gelu(inner)
    else:
        gate, value = inner.chunk(2, dim=-1)
        act = F.silu(gate) * value
    y = F.grouped_mm(act, w2.transpose(1, 2), offs=offsets)
    if plan.kept is not None:
        place = torch.arange(plan.order.shape[0], device=x.device)
        expert = torch.bucketize(place, ends, right=True)
        works = place - (ends - plan.counts)[expert] < plan.kept[expert]
        y = torch.where(works[:, None], y, 0)
    return y


class _Dispatch(torch.autograd.Function):
    """Rows of x (N, D) in the order of a plan, (M, D); its gradient adds up each token's rows in the order of slots."""

    @staticmethod
    def forward(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        return x.index_select(0, order // inverse.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (inverse,) = ctx.saved_tensors
        return F.embedding_bag(inverse, grad.contiguous(), mode="sum"), None, None
