"""Decode state: what a batch of requests has seen. It belongs to the request; modules keep nothing between calls.

A layer's own state may have `snapshot() -> taken` and `restore(taken)`, such as a cache that only appends and so needs
to remember a length; any other state is copied whole, which is right for the small, constant ones of recurrent layers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class BlockState:
    """The states of one block's layers; None for a layer that keeps none."""

    mixer: Any = None
    ffn: Any = None
    modulators: list[Any] = field(default_factory=list)


@dataclass
class Snapshot:
    """A moment to come back to; from `DecodeState.snapshot`, good for the same state object only."""

    length: int
    next_position: Tensor
    layers: list[Any]


@dataclass
class DecodeState:
    """State of a whole model for B requests.

    Each row is one sample. Padding (segment 0) may stand left of a prompt, or right of it before more tokens come.
    """

    blocks: list[BlockState]
    batch: int
    max_length: int
    """Slots, padding included."""
    next_position: Tensor
    """(B,) int64: the position that each row's next token gets."""
    length: int = 0
    """Slots in use, padding included."""

    def positions_of(self, T: int, segment_ids: Tensor | None) -> Tensor:
        """Positions (B, T) of the next T tokens; padding does not count."""
        start = self.next_position[:, None]
        if segment_ids is None:
            return start if T == 1 else start + torch.arange(T, device=start.device)
        return start + ((segment_ids > 0).cumsum(1) - 1).clamp(min=0)

    def advance(self, T: int, positions: Tensor, segment_ids: Tensor | None) -> None:
        """Note that T tokens at `positions` (B, T) were seen."""
        self.length += T
        if segment_ids is None:
            self.next_position = positions[:, -1] + 1
        else:
            after = torch.where(segment_ids > 0, positions + 1, 0).amax(1)
            self.next_position = torch.maximum(self.next_position, after)

    def snapshot(self) -> Snapshot:
        """Remember this moment, to regenerate an answer later without prefilling the history again."""
        return Snapshot(self.length, self.next_position.clone(), [take_state(state) for state in self._states()])

    def restore(self, taken: Snapshot) -> None:
        """Go back to `taken`; it may be restored any number of times."""
        self.length, self.next_position = taken.length, taken.next_position.clone()
        for block, saved in zip(self.blocks, _in_blocks(self.blocks, taken.layers), strict=True):
            block.mixer = put_state(block.mixer, saved.mixer)
            block.ffn = put_state(block.ffn, saved.ffn)
            block.modulators = [put_state(s, t) for s, t in zip(block.modulators, saved.modulators, strict=True)]

    def _states(self) -> list[Any]:
        return [state for block in self.blocks for state in (block.mixer, block.ffn, *block.modulators)]


def _in_blocks(blocks: list[BlockState], flat: list[Any]) -> list[BlockState]:
    items = iter(flat)
    return [BlockState(next(items), next(items), [next(items) for _ in block.modulators]) for block in blocks]


def take_state(state: Any) -> Any:
    """What `put_state` needs to bring one layer's state back to this moment."""
    return state.snapshot() if hasattr(state, "snapshot") else copy.deepcopy(state)


def put_state(state: Any, taken: Any) -> Any:
    """One layer's state as it was at `taken`; use what is returned, the old object may or may not be it."""
    if hasattr(state, "snapshot"):
        state.restore(taken)
        return state
    return copy.deepcopy(taken)
