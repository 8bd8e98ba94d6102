"""Keys and values of the tokens that a request has seen, for one attention layer.

The buffers are allocated once and double when full, up to `max_length`; a token is written in place, nothing is
concatenated. Slots are filled in the order in which tokens come, the same for all rows of the batch. Padding takes a
slot too: its segment is 0, so that no real token sees it; rows of different length need nothing else.

With a sliding window the slots that no row can see any more are dropped when the buffer is full, all but the sinks:
memory stays at `window_slots`, and dropping costs a constant per token on average. Only a pass of many tokens at once
needs more, since its first token still sees a whole window.

Rows may join and leave while others go on. Behind the buffers that are in use there is a store with spare rows, and
slots before and behind: who joins is written into a spare row, who leaves is overwritten by the row that takes the
place, and slots that are padding in every row are left in front. So none of this copies what others have read.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
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
        keys, values: (B, Hk, capacity, Dh), as the other buffers a view of a store; the first `length` slots are in
            use.
        positions: (B, capacity) int64.
        segments: (B, capacity) int64, or None as long as nobody gave segment ids (all slots are segment 1).
        marks: (B, capacity, M) int64, what the position scheme wants to know of each key; None if nothing.
        last_marks: (B, M), of the newest token.
        dropped: slots that the window has left behind.
    """

    keys: Tensor
    values: Tensor
    positions: Tensor

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
        self.segments: Tensor | None = None
        self.marks: Tensor | None = None
        self.last_marks: Tensor | None = None
        # What is masked must be a number, so nothing is left as the memory happens to be.
        keys = torch.zeros(batch, heads, capacity, head_dim, dtype=dtype, device=device)
        positions = torch.zeros(batch, capacity, dtype=torch.int64, device=device)
        self._stores = {"keys": keys, "values": torch.zeros_like(keys), "positions": positions}
        self._first = 0
        """The slot of the stores that is slot 0."""
        self._starts = [0] * batch
        """The slot where each row begins; before it is padding."""
        self._joined = False
        self._view()

    def _view(self) -> None:
        """Let the buffers show the rows and slots in use, and the slots behind."""
        rows = len(self._starts)
        for name, axis in _BUFFERS.items():
            store = self._stores.get(name)
            view = None if store is None else store[:rows].narrow(axis, self._first, store.shape[axis] - self._first)
            setattr(self, name, view)

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
            self._mark_as_real()
        if self.segments is not None:
            self.segments[:, begin:end] = 1 if segments is None else segments
        if marks is not None:
            self._buffer_for_marks(marks)[:, begin:end] = marks
            self.last_marks = marks[:, -1]
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _make_room(self, T: int) -> None:
        index = self._still_seen()
        kept = self.length if index is None else index.shape[0]
        capacity = max(self.capacity, FIRST_CAPACITY)
        if self._joined:  # slots are given back in front, so what matters is how much there is
            capacity = kept + T + max(FIRST_CAPACITY, kept)
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
        """Copy the slots `index`, `kept` of them, to the beginning of stores of `capacity` slots."""
        there, slots_there = self._stores["positions"].shape
        rows = min(there, _rows_for(len(self._starts)))
        if self._joined and index is None and rows == there and slots_there >= capacity and self._first >= kept:
            self._move_to_front(kept)
        else:
            self._store_anew(rows, capacity, kept, index)
        if index is not None:
            slots = index.tolist()
            self._starts = [bisect_left(slots, start) for start in self._starts]
        self.length, self.dropped = kept, self.dropped + self.length - kept

    def _move_to_front(self, kept: int) -> None:
        """Bring the first `kept` slots to the front of the stores that there are; the two places do not overlap."""
        for name, axis in _BUFFERS.items():
            old = getattr(self, name)
            if old is not None:
                self._stores[name][: len(self._starts)].narrow(axis, 0, kept).copy_(old.narrow(axis, 0, kept))
        self._first = 0
        self._view()

    def _store_anew(self, rows: int, capacity: int, kept: int, index: Tensor | None = None) -> None:
        """New stores, for `rows` rows of `capacity` slots, with the slots `index`, or the first `kept`, in front."""
        for name, axis in _BUFFERS.items():
            old = getattr(self, name)
            if old is None:
                continue
            shape = [rows, *old.shape[1:]]
            shape[axis] = capacity
            self._stores[name] = old.new_zeros(shape)
            content = old.narrow(axis, 0, kept) if index is None else old.index_select(axis, index)
            self._stores[name][: old.shape[0]].narrow(axis, 0, kept).copy_(content)
        self._first = 0
        self._view()

    def _mark_as_real(self) -> Tensor:
        """The buffer of segments, made if there is none: what was read so far is of segment 1."""
        if self.segments is None:
            self._stores["segments"] = torch.zeros_like(self._stores["positions"])
            self._view()
            assert self.segments is not None
            self.segments[:, : self.length] = 1
        return self.segments

    def _buffer_for_marks(self, marks: Tensor) -> Tensor:
        """The buffer for marks (…, M), made if there is none."""
        if self.marks is None:
            self._stores["marks"] = marks.new_zeros(*self._stores["positions"].shape, marks.shape[-1])
            self.last_marks = marks.new_zeros(len(self._starts), marks.shape[-1])
            self._view()
            assert self.marks is not None
        return self.marks

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
            taken_buffers = {name: taken[f"buffer:{name}"] for name in _BUFFERS}
            self._stores = {name: buffer.clone() for name, buffer in taken_buffers.items() if buffer is not None}
            self._first = 0
            self._view()
        elif not taken["segments"]:
            self._stores.pop("segments", None)
            self.segments = None

    # --- rows of a batch -------------------------------------------------------------------------------------------

    @classmethod
    def join(cls, caches: Sequence[KVCache]) -> KVCache:
        """One cache for the rows of all, aligned at their newest slot: the first one, with the others written in.

        Shorter rows get padding on the left; where a newcomer is the longest, the others get it behind what they have
        read. How long the whole may become is no longer limited.
        """
        first = caches[0]
        first.max_length, first._joined = sys.maxsize, True
        for other in caches[1:]:
            first._add(other)
        return first

    def _add(self, other: KVCache) -> None:
        segments = self._mark_as_real()
        if other.length > self.capacity:
            self._make_room(other.length)
            segments = self._mark_as_real()
        if other.length > self.length:
            gap = slice(self.length, other.length)
            segments[:, gap] = 0
            self.keys[:, :, gap] = self.values[:, :, gap] = 0  # who had the row before may have left no numbers there
            self.length = other.length
        begin = self.length - other.length
        old = len(self._starts)
        self._starts += [begin + start for start in other._starts]
        rows = len(self._starts)
        if rows > self._stores["keys"].shape[0]:
            self._store_anew(_rows_for(rows), self.capacity, self.length)
        self._view()
        row, place = slice(old, rows), slice(begin, self.length)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[row, :, :begin] = 0
            mine[row, :, place] = theirs[:, :, : other.length]
        self.positions[row, place] = other.positions[:, : other.length]
        segments = self._mark_as_real()
        segments[row] = 0
        segments[row, place] = 1 if other.segments is None else other.segments[:, : other.length]
        if other.marks is not None and other.last_marks is not None:
            marks = self._buffer_for_marks(other.marks)
            marks[row, place] = other.marks[:, : other.length]
            assert self.last_marks is not None
            self.last_marks = torch.cat([self.last_marks[:old], other.last_marks])

    def select_rows(self, index: Tensor) -> KVCache:
        """This cache with the rows `index` alone, without the slots in front that are padding in all of them.

        Raises:
            ValueError: a row would overwrite one that is still wanted.
        """
        rows = index.tolist()
        moves = [(place, row) for place, row in enumerate(rows) if place != row]
        if any(row < place or rows[row : row + 1] == [row] for place, row in moves):
            raise ValueError(f"rows {rows}: a row may take the place of one that leaves, not of one that stays")
        for name, axis in _BUFFERS.items():
            buffer = getattr(self, name)
            for place, row in moves if buffer is not None else ():
                buffer[place].narrow(axis - 1, 0, self.length).copy_(buffer[row].narrow(axis - 1, 0, self.length))
        if self.last_marks is not None:
            self.last_marks = self.last_marks[index]
        starts = [self._starts[row] for row in rows]
        lead = min(starts, default=self.length)
        self._first += lead
        self.length -= lead
        self._starts = [start - lead for start in starts]
        self._view()
        return self


def _rows_for(rows: int) -> int:
    """Rows of a store for so many: a power of two."""
    return 1 << max(0, rows - 1).bit_length()
