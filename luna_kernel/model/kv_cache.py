"""Keys and values of the tokens that a request has seen, for one attention layer.

The buffers are allocated once and double when full, up to `max_length`; a token is written in place, nothing is
concatenated. Slots are filled in the order in which tokens come, the same for all rows of the batch. Padding takes a
slot too: its segment is 0, so that no real token sees it; rows of different length need nothing else.

With a sliding window the slots that no row can see any more are dropped when the buffer is full, all but the sinks:
memory stays at `window_slots`, and dropping costs a constant per token on average. Only a pass of many tokens at once
needs more, since its first token still sees a whole window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FIRST_CAPACITY = 64
"""Slots of a fresh cache; it doubles from here."""

_BUFFERS = {"keys": 2, "values": 2, "positions": 1, "segments": 1, "marks": 1}
"""The buffers and the axis of their slots."""


def spare_slots(window: int) -> int:
    """Slots beyond window and sinks: how many tokens come between two moves of the window's content."""
    return max(1, window // 3)


def window_slots(window: int, sinks: int = 0) -> int:
    """Slots of a cache that has filled up, for passes of up to `spare_slots` tokens."""
    return window + sinks + spare_slots(window)


class KVCache:
    """Decode state of one attention layer.

    Attributes:
        keys, values: (B, Hk, capacity, Dh); the first `length` slots are in use.
        positions: (B, capacity) int64.
        segments: (B, capacity) int64, or None as long as nobody gave segment ids (all slots are segment 1).
        marks: (B, capacity, M) int64, what the position scheme wants to know of each key; None if nothing.
        last_marks: (B, M), of the newest token.
        dropped: slots that the window has left behind.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
        window: int | None = None,
        sinks: int = 0,
    ) -> None:
        batch, heads, head_dim = shape
        capacity = min(FIRST_CAPACITY, max_length)
        if window is not None:
            capacity = min(capacity, window_slots(window, sinks))
        self.max_length = max_length
        self.window = window
        self.sinks = sinks
        self.length = 0
        self.dropped = 0
        self.keys = torch.empty(batch, heads, capacity, head_dim, dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)
        self.positions = torch.zeros(batch, capacity, dtype=torch.int64, device=device)
        self.segments: Tensor | None = None
        self.marks: Tensor | None = None
        self.last_marks: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Slots that are allocated."""
        return self.keys.shape[2]

    def append(
        self, k: Tensor, v: Tensor, positions: Tensor, segments: Tensor | None, marks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Write k, v (B, Hk, T, Dh) and return all keys and values in the cache, (B, Hk, S, Dh) views.

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
        if marks is not None:
            if self.marks is None:
                self.marks = marks.new_zeros(*self.positions.shape, marks.shape[2])
            self.marks[:, begin:end] = marks
            self.last_marks = marks[:, -1]
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _make_room(self, T: int) -> None:
        index = self._still_seen()
        kept = self.length if index is None else index.shape[0]
        capacity = max(self.capacity, FIRST_CAPACITY)
        while capacity < kept + T:
            capacity *= 2
        if self.window is not None:
            capacity = max(kept + T, min(capacity, window_slots(self.window, self.sinks)))
        left = self.max_length - self.dropped - (self.length - kept)
        self._move(index, kept, min(capacity, max(left, kept + T)))

    def _still_seen(self) -> Tensor | None:
        """The slots that a later token may still see, ascending; None: all."""
        if self.window is None or self.length == 0:
            return None
        slots = torch.arange(self.length, device=self.positions.device)
        if self.segments is None:
            return slots[(slots > self.length - self.window) | (slots < self.sinks)]
        # Rows of different length: a slot may go when for every row it is padding, of a sample that is over, or out
        # of the window.
        positions, segments = self.positions[:, : self.length], self.segments[:, : self.length]
        newest = torch.where(segments > 0, slots, 0).amax(1, keepdim=True)
        mine = (segments > 0) & (segments == segments.gather(1, newest))
        last = positions.masked_fill(~mine, -1).amax(1, keepdim=True)
        return slots[(mine & ((positions > last + 1 - self.window) | (positions < self.sinks))).any(0)]

    def _move(self, index: Tensor | None, kept: int, capacity: int) -> None:
        """Copy the slots `index`, `kept` of them, to the beginning of buffers of `capacity` slots."""
        for name, axis in _BUFFERS.items():
            old = getattr(self, name)
            if old is None:
                continue
            shape = list(old.shape)
            shape[axis] = capacity
            new = old.new_zeros(shape) if old.dtype == torch.int64 else old.new_empty(shape)
            new.narrow(axis, 0, kept).copy_(
                old.narrow(axis, 0, kept) if index is None else old.index_select(axis, index)
            )
            setattr(self, name, new)
        self.length, self.dropped = kept, self.dropped + self.length - kept

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs to come back to this moment: a number, or the window's content."""
        taken: dict[str, Any] = {
            "length": self.length,
            "dropped": self.dropped,
            "segments": self.segments is not None,
            "last_marks": self.last_marks,
        }
        if self.window is not None:  # its slots will be dropped or moved; a full cache only ever appends
            for name, axis in _BUFFERS.items():
                buffer = getattr(self, name)
                taken[f"buffer:{name}"] = None if buffer is None else buffer.narrow(axis, 0, self.length).clone()
        return taken

    def restore(self, taken: dict[str, Any]) -> None:
        """Forget what came after `snapshot`."""
        self.length, self.dropped, self.last_marks = taken["length"], taken["dropped"], taken["last_marks"]
        if self.window is not None:
            for name in _BUFFERS:
                buffer = taken[f"buffer:{name}"]
                setattr(self, name, None if buffer is None else buffer.clone())
        elif not taken["segments"]:
            self.segments = None

    # --- rows of a batch -------------------------------------------------------------------------------------------

    @classmethod
    def join(cls, caches: Sequence[KVCache]) -> KVCache:
        """One cache for the rows of all, aligned at their newest slot; the shorter ones get padding on the left."""
        first, length = caches[0], max(cache.length for cache in caches)
        rows = sum(cache.keys.shape[0] for cache in caches)
        joined = first._empty(rows, length)
        joined.max_length = max(cache.max_length for cache in caches)
        joined.segments = torch.zeros_like(joined.positions)
        if any(cache.marks is not None for cache in caches):
            width = next(cache.marks.shape[2] for cache in caches if cache.marks is not None)
            joined.marks = joined.positions.new_zeros(*joined.positions.shape, width)
            joined.last_marks = joined.positions.new_zeros(rows, width)
        begin = 0
        for cache in caches:
            row = slice(begin, begin + cache.keys.shape[0])
            begin = row.stop
            place = slice(length - cache.length, length)
            joined.keys[row, :, place] = cache.keys[:, :, : cache.length]
            joined.values[row, :, place] = cache.values[:, :, : cache.length]
            joined.positions[row, place] = cache.positions[:, : cache.length]
            joined.segments[row, place] = 1 if cache.segments is None else cache.segments[:, : cache.length]
            if cache.marks is not None and cache.last_marks is not None:
                assert joined.marks is not None
                assert joined.last_marks is not None
                joined.marks[row, place] = cache.marks[:, : cache.length]
                joined.last_marks[row] = cache.last_marks
        joined.length = length
        return joined

    def select_rows(self, index: Tensor) -> KVCache:
        """A cache of the rows `index` alone, without the slots that are padding in all of them."""
        used = slice(0, self.length)
        if self.segments is not None and len(index):
            real = (self.segments[index, : self.length] > 0).any(0)
            used = slice(int(real.int().argmax()) if bool(real.any()) else 0, self.length)
        length = used.stop - used.start
        chosen = self._empty(len(index), length)
        chosen.keys[:, :, :length] = self.keys[index, :, used]
        chosen.values[:, :, :length] = self.values[index, :, used]
        chosen.positions[:, :length] = self.positions[index, used]
        for name in ("segments", "marks"):
            buffer = getattr(self, name)
            if buffer is not None:
                chosen_buffer = buffer.new_zeros(len(index), chosen.capacity, *buffer.shape[2:])
                chosen_buffer[:, :length] = buffer[index, used]
                setattr(chosen, name, chosen_buffer)
        if self.last_marks is not None:
            chosen.last_marks = self.last_marks[index]
        chosen.length = length
        return chosen

    def _empty(self, rows: int, length: int) -> KVCache:
        """A cache like this one for `rows` rows, with room for `length` slots and some more."""
        made = KVCache(
            (rows, self.keys.shape[1], self.keys.shape[3]), self.max_length, self.keys.dtype, self.keys.device,
            self.window, self.sinks,
        )  # fmt: skip
        capacity = max(length + FIRST_CAPACITY, made.capacity)
        made.keys = self.keys.new_empty(rows, self.keys.shape[1], capacity, self.keys.shape[3])
        made.keys[:, :, :length] = 0  # padding is masked, but what is masked must be a number
        made.values = torch.zeros_like(made.keys)
        made.positions = self.positions.new_zeros(rows, capacity)
        return made
