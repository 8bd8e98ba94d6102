"""Keys and values of the tokens that a request has seen, for one attention layer.

The buffers are allocated once and double when full, up to `max_length`; a token is written in place, nothing is
concatenated. Slots are filled in the order in which tokens come, the same for all rows of the batch. Padding takes a
slot too: its segment is 0, so that no real token sees it; rows of different length need nothing else.

With a sliding window the slots that no row can see any more are dropped when the buffer is full: memory stays at about
twice the window, and dropping costs a constant per token on average.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

FIRST_CAPACITY = 64
"""Slots of a fresh cache; it doubles from here."""


class KVCache:
    """Decode state of one attention layer.

    Attributes:
        keys, values: (B, Hk, capacity, Dh); the first `length` slots are in use.
        positions: (B, capacity) int64.
        segments: (B, capacity) int64, or None as long as nobody gave segment ids (all slots are segment 1).
        dropped: slots that the window has left behind.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
        window: int | None = None,
    ) -> None:
        batch, heads, head_dim = shape
        capacity = min(FIRST_CAPACITY, max_length)
        self.max_length = max_length
        self.window = window
        self.length = 0
        self.dropped = 0
        self.keys = torch.empty(batch, heads, capacity, head_dim, dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)
        self.positions = torch.zeros(batch, capacity, dtype=torch.int64, device=device)
        self.segments: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Slots that are allocated."""
        return self.keys.shape[2]

    def append(self, k: Tensor, v: Tensor, positions: Tensor, segments: Tensor | None) -> tuple[Tensor, Tensor]:
        """Write k, v (B, Hk, T, Dh) and return all keys and values so far, (B, Hk, S, Dh) views.

        Raises:
            ValueError: more than `max_length` tokens.
        """
        T = k.shape[2]
        if self.dropped + self.length + T > self.max_length:
            raise ValueError(
                f"the decode state was made for {self.max_length} tokens; it holds {self.dropped + self.length} "
                f"and {T} more came"
            )
        if self.length + T > self.capacity:
            self._make_room(T)
        begin, end = self.length, self.length + T
        self.keys[:, :, begin:end] = k
        self.values[:, :, begin:end] = v
        self.positions[:, begin:end] = positions
        if segments is not None and self.segments is None:
            self.segments = torch.ones_like(self.positions)
        if self.segments is not None:
            self.segments[:, begin:end] = 1 if segments is None else segments
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _make_room(self, T: int) -> None:
        first = self._first_visible()
        kept = self.length - first
        if first and kept + T <= self.capacity:
            self._move(first, self.capacity)
            return
        capacity = max(self.capacity, FIRST_CAPACITY)
        while capacity < kept + T:
            capacity *= 2
        if self.window is not None:
            capacity = max(capacity, 2 * self.window)
        self._move(first, min(capacity, max(self.max_length - self.dropped - first, kept + T)))

    def _first_visible(self) -> int:
        """The first slot that a later token may still see."""
        if self.window is None or self.length == 0:
            return 0
        if self.segments is None:
            return max(0, self.length - (self.window - 1))
        # Rows of different length: a slot may go when it is padding or out of the window for every row.
        positions, real = self.positions[:, : self.length], self.segments[:, : self.length] > 0
        last = positions.masked_fill(~real, -1).amax(1, keepdim=True)
        visible = (real & (positions > last + 1 - self.window)).any(0)
        return int(visible.int().argmax()) if bool(visible.any()) else self.length

    def _move(self, first: int, capacity: int) -> None:
        """Copy the slots from `first` on to the beginning of buffers of `capacity` slots."""
        kept = self.length - first

        def moved(old: Tensor, axis: int) -> Tensor:
            shape = list(old.shape)
            shape[axis] = capacity
            new = old.new_zeros(shape) if old.dtype == torch.int64 else old.new_empty(shape)
            new.narrow(axis, 0, kept).copy_(old.narrow(axis, first, kept))
            return new

        self.keys, self.values = moved(self.keys, 2), moved(self.values, 2)
        self.positions = moved(self.positions, 1)
        if self.segments is not None:
            self.segments = moved(self.segments, 1)
        self.length, self.dropped = kept, self.dropped + first

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs to come back to this moment: a number, or the window's content."""
        taken: dict[str, Any] = {"length": self.length, "dropped": self.dropped, "segments": self.segments is not None}
        if self.window is not None:  # its slots will be dropped or moved; a full cache only ever appends
            for name in ("keys", "values", "positions", "segments"):
                buffer = getattr(self, name)
                axis = 1 if name in ("positions", "segments") else 2
                taken[f"buffer:{name}"] = None if buffer is None else buffer.narrow(axis, 0, self.length).clone()
        return taken

    def restore(self, taken: dict[str, Any]) -> None:
        """Forget what came after `snapshot`."""
        self.length, self.dropped = taken["length"], taken["dropped"]
        if self.window is not None:
            for name in ("keys", "values", "positions", "segments"):
                buffer = taken[f"buffer:{name}"]
                setattr(self, name, None if buffer is None else buffer.clone())
        elif not taken["segments"]:
            self.segments = None
