"""Matrices once more, in the order in which oneDNN reads them: for who runs many requests at once.

Between one row, which only has to read the matrix, and hundreds, where the product is all, a product spends most of its
time on bringing the matrix in order, or goes without. A server meets a few rows at each token. With matrices that were
brought in order once, four rows take hardly longer than one where a matrix is large (`benchmarks/float32_products.py`).
The price is memory: the matrix is there twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .linear import Linear, Packed, linear

FEWEST_NUMBERS = 1 << 17
"""Smaller matrices stay in a core's cache and gain nothing."""
_ROWS, _TURNS = 4, 7
_GAIN = 0.8
"""The packed form must take less than this share of the time."""


def pack(model: Any, most_bytes: int) -> int:
    """Pack those matrices of a decoder which are multiplied faster so here, tried out for each shape.

    Args:
        model: a `Decoder` on a processor, whose weights stay as they are from now on.
        most_bytes: that may be taken for it; what comes later stays as it is.

    Returns:
        Bytes that were taken.
    """
    weights = [module.weight for module in model.modules() if isinstance(module, Linear)]
    if all(weight is not model.head_weight for weight in weights):  # tied to the embedding
        weights.insert(0, model.head_weight)
    taken, gains = 0, dict[torch.Size, bool]()
    for weight in weights:
        if weight.dtype != torch.float32 or weight.device.type != "cpu" or weight.numel() < FEWEST_NUMBERS:
            continue
        if taken + weight.nbytes > most_bytes:
            continue
        try:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            if weight.shape not in gains:
                gains[weight.shape] = _is_faster(weight.detach(), packed)
            if gains[weight.shape]:
                weight.packed = Packed(packed, weight._version)  # type: ignore[attr-defined]
                taken += weight.nbytes
        except (AttributeError, RuntimeError):  # not in every build, and no promise of PyTorch's
            return taken
    return taken


def _is_faster(weight: Tensor, packed: Tensor) -> bool:
    """Take turns, so that whatever else the machine does meets both; the best of each counts."""
    x = torch.randn(_ROWS, weight.shape[1])
    with torch.inference_mode():
        plain = F.linear(x, weight)
        if not torch.allclose(torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""), plain, atol=1e-3):
            return False
        best = [float("inf")] * 2
        ways: tuple[Callable[[], Tensor], ...] = (
            lambda: linear(x, weight),
            lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""),
        )
        for _ in range(_TURNS):
            for place, way in enumerate(ways):
                begin = time.perf_counter()
                way()
                best[place] = min(best[place], time.perf_counter() - begin)
    return best[1] < _GAIN * best[0]
