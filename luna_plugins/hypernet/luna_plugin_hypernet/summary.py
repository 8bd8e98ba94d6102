"""The text's own summary: the mean of what each token of a sample says, over the tokens so far.

Shape letters: B batch, T tokens, C numbers per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from luna_kernel.contracts.layers import PADDING_SEGMENT


@dataclass
class MeanState:
    """What a request remembers: a sum, whatever the length of the text."""

    total: Tensor
    """(B, C + 1) float32: the sum over the tokens of the present segment, and their number."""
    segment: Tensor
    """(B,) int64, the segment of the last token seen; 0: none yet."""

    @classmethod
    def empty(cls, batch: int, width: int, device: torch.device) -> MeanState:
        """Nothing seen."""
        total = torch.zeros(batch, width + 1, device=device)
        return cls(total, torch.full((batch,), PADDING_SEGMENT, dtype=torch.int64, device=device))


def running_mean(z: Tensor, segment_ids: Tensor | None, state: MeanState | None = None) -> Tensor:
    """The mean of z (B, T, C) over the tokens of the same segment up to each token, itself included.

    Args:
        z: one vector per token.
        segment_ids: (B, T), 0 is padding, which is skipped wherever it stands; None: one segment.
        state: what came before; updated.

    Returns:
        (B, T, C) float32.
    """
    if state is None:
        state = MeanState.empty(z.shape[0], z.shape[2], z.device)
    z = torch.cat([z.float(), torch.ones_like(z[..., :1], dtype=torch.float32)], -1)
    if segment_ids is None:
        sums = state.total[:, None] + z.cumsum(1)
        state.segment = torch.ones_like(state.segment)
    else:
        sums, state.segment = _sums(z, segment_ids, state)
    state.total = sums[:, -1]
    return sums[..., :-1] / sums[..., -1:].clamp(min=1)


def _sums(z: Tensor, segment_ids: Tensor, state: MeanState) -> tuple[Tensor, Tensor]:
    """Sums (B, T, C) since the start of each token's segment, and the last token's segment (B,)."""
    T = z.shape[1]
    real = segment_ids != PADDING_SEGMENT
    z = torch.where(real[..., None], z, 0)
    sums = state.total[:, None] + z.cumsum(1)
    index = torch.arange(T, device=z.device)
    seen = torch.cat([state.segment[:, None], segment_ids.to(torch.int64)], 1)
    now = seen.gather(1, torch.where(real, index + 1, 0).cummax(1).values)  # of the last token that is no padding
    before = torch.cat([state.segment[:, None], now[:, :-1]], 1)
    begins = (now != before) & (before != PADDING_SEGMENT)
    start = torch.where(begins, index, -1).cummax(1).values
    base = (sums - z).gather(1, start.clamp(min=0)[..., None].expand_as(sums))
    return sums - torch.where((start >= 0)[..., None], base, 0), now[:, -1]
