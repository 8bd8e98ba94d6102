"""Attention of the newest token to a cache in a low precision, on a processor.

For one query PyTorch's fused kernel converts the keys block by block and multiplies them at a fraction of the speed of
a plain product: the more heads share a key, the worse. Here keys and values are made float32 once and two ordinary
products do the rest. Scores, softmax and sums are in float32, so the result is no less exact than the kernel's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NUMBERS_AT_ONCE = 1 << 21
"""Numbers of the keys that are made float32 at a time, 8 MiB, so that rows of a batch pass through the cache."""


def attend_newest(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ/√Dh + mask) v for one query in each row, without gradients.

    Args:
        q: (B, H, 1, Dh).
        k, v: (B, Hk, S, Dh), H a multiple of Hk; each key serves H/Hk heads in a row.
        mask: (B or 1, H or 1, 1, S), True or a finite bias where the query may look, and somewhere in each row.

    Returns:
        (B, H, 1, Dh) in the dtype of q.
    """
    B, H, _, Dh = q.shape
    shared = k.shape[1]
    grouped = q.view(B, shared, H // shared, Dh).float().mul_(1 / math.sqrt(Dh))
    if mask is not None:
        heads = (1, 1) if mask.shape[1] == 1 else (shared, H // shared)
        mask = mask.view(mask.shape[0], *heads, mask.shape[3]).expand(B, -1, -1, -1)
    out = torch.empty_like(grouped)
    rows = max(1, NUMBERS_AT_ONCE // max(1, k[0].numel()))
    for start in range(0, B, rows):
        part = slice(start, start + rows)
        scores = grouped[part] @ k[part].float().transpose(2, 3)
        if mask is not None and mask.dtype == torch.bool:
            scores.masked_fill_(~mask[part], -math.inf)
        elif mask is not None:
            scores += mask[part]
        out[part] = torch.softmax(scores, dim=-1) @ v[part].float()
    return out.view(B, H, 1, Dh).to(q.dtype)
