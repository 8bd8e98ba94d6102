"""What a request remembers of its past in one state-space layer: a constant amount, however long the text.

Shape letters: B batch, H heads, P channels of a head, N state numbers per channel, W width of the convolution,
C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class SSMState:
    """Decode state of one `StateSpace` layer. Belongs to the request; the layer replaces its tensors."""

    hidden: Tensor
    """(B, H, P, N) float32 at least."""
    inputs: Tensor
    """(B, W-1, C) the convolution's last inputs."""
    segment: Tensor
    """(B,) int64, the segment of the last token seen; 0: none yet."""

    def copy(self) -> SSMState:
        """A state of its own with the same content, for a second continuation of the same text."""
        return SSMState(self.hidden.clone(), self.inputs.clone(), self.segment.clone())

    def snapshot(self) -> SSMState:
        """Remember this moment."""
        return self.copy()

    def restore(self, taken: SSMState) -> None:
        """Go back to it; a snapshot may be restored any number of times."""
        fresh = taken.copy()
        self.hidden, self.inputs, self.segment = fresh.hidden, fresh.inputs, fresh.segment


@dataclass
class HybridState:
    """Decode state of one `Hybrid` layer: its branches' states."""

    attention: Any
    ssm: SSMState

    def copy(self) -> HybridState:
        """A state of its own with the same content."""
        import copy

        return HybridState(copy.deepcopy(self.attention), self.ssm.copy())

    def snapshot(self) -> tuple[Any, SSMState]:
        """Remember this moment, the attention's as cheaply as it can."""
        return self.attention.snapshot(), self.ssm.snapshot()

    def restore(self, taken: tuple[Any, SSMState]) -> None:
        """Go back to it."""
        self.attention.restore(taken[0])
        self.ssm.restore(taken[1])


@dataclass
class Packing:
    """How the rows of a batch are laid out for the recurrence: real tokens first, then padding.

    A recurrence has to step over padding wherever it stands. Moving it to the right end, where its step is 0, makes
    every real token the direct neighbour of the one before it, for the convolution too.
    """

    runs: Tensor | None
    """(B, T) int64 after the move: grows by 1 where a new sample begins; None: one run everywhere."""
    real: Tensor | None
    """(B, T) bool after the move; None: no padding."""
    order: Tensor | None
    """(B, T) int64: where the token at each place comes from; None: nothing moves."""
    segment: Tensor
    """(B,) int64 segment of the last real token."""

    def move(self, x: Tensor) -> Tensor:
        """x (B, T, D) with padding at the right end."""
        return x if self.order is None else x.gather(1, self.order[..., None].expand_as(x))

    def move_back(self, y: Tensor) -> Tensor:
        """The inverse of `move`; zeros at padding."""
        if self.order is not None:
            y = y.gather(1, self.order.argsort(1)[..., None].expand_as(y))
        return y

    def last_inputs(self, before: Tensor, u: Tensor) -> Tensor:
        """The last W-1 inputs of each row's real tokens, from those before (B, W-1, C) and u (B, T, C).

        Inputs of an earlier sample than the last are zeroed: the next token of this sample must not see them.
        """
        reach = before.shape[1]
        if self.real is None and self.runs is None:
            # A copy: a view of `u` would keep the whole prompt in memory as long as the state lives.
            ends = torch.cat([before, u[:, max(0, u.shape[1] - reach) :]], dim=1)
            return ends[:, ends.shape[1] - reach :].clone()
        together = torch.cat([before, u], dim=1)
        count = u.new_full((u.shape[0],), u.shape[1], dtype=torch.int64) if self.real is None else self.real.sum(1)
        places = count[:, None] + torch.arange(reach, device=u.device)
        taken = together.gather(1, places[..., None].expand(-1, -1, u.shape[2]))
        if self.runs is None:
            return taken
        runs = torch.cat([torch.zeros_like(self.runs[:, :1]).expand(-1, reach), self.runs], dim=1)
        same = runs.gather(1, places) == self.runs[:, -1:]
        return torch.where(same[..., None], taken, 0)


def make_packing(segment_ids: Tensor | None, previous: Tensor) -> Packing:
    """Lay out a batch.

    Args:
        segment_ids: (B, T), 0 is padding; None: one segment, number 1, without padding.
        previous: (B,) segment of the token before the first, 0: none.
    """
    if segment_ids is None:
        return Packing(None, None, None, torch.ones_like(previous))
    real = segment_ids != 0
    order = None
    compiling = torch.compiler.is_compiling()  # there, a branch on data would break the graph
    if compiling or not bool(real.all()):
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        segment_ids, real = segment_ids.gather(1, order), real.gather(1, order)
    segments = torch.cat([previous[:, None], segment_ids.to(torch.int64)], dim=1)
    begins = (segments[:, 1:] != segments[:, :-1]) & (segments[:, :-1] != 0) & real
    runs = begins.cumsum(1)
    last = segments.gather(1, real.sum(1, keepdim=True)).squeeze(1)
    if not compiling:
        moved = bool((order != torch.arange(order.shape[1], device=order.device)).any()) if order is not None else False
        return Packing(
            runs if bool(begins.any()) else None, real if order is not None else None, order if moved else None, last
        )
    return Packing(runs, real, order, last)
