"""Batches: whole samples packed side by side into rows, nothing cropped, a pure function of the position.

The rule. A sample of n tokens gives n - 1 predictions. If they fit into one row (T), they stay together in one row; a
longer sample is cut into pieces of T predictions, the last one shorter, each of which begins where the one before
ended, so every prediction of every sample is made exactly once per epoch. Pieces come in the order of `Order` and are
put into the first row with room. A batch ends at the first piece that fits nowhere; that piece opens the next batch.
So the position, the number of pieces used since the start of training, says all: it is what a checkpoint keeps.

Each piece is a segment of its own (`segment_ids` from 1, 0 is padding): it sees no other, and its positions begin at 0.

Shape letters: B rows, T tokens per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from luna_kernel.data.conditions import ConditionSpace
from luna_kernel.data.order import Order
from luna_kernel.data.token_store import TokenStore

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Rows for one optimiser step, in NumPy; the training engine moves them to the device."""

    tokens: Ints
    """(B, T)."""
    targets: Ints
    """(B, T), the token after each; 0 where `weights` is 0."""
    weights: npt.NDArray[np.float32]
    """(B, T), 1 where the target counts, else 0."""
    segment_ids: Ints
    """(B, T), 0 is padding."""
    positions: Ints
    """(B, T), from 0 in each segment."""
    start: int
    """Position of its first piece."""
    end: int
    """Position after its last piece: where the next batch starts."""
    conditions: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """(B, T, C) by name: each token has the vector of its own sample, padding zeros."""

    @property
    def num_targets(self) -> int:
        """Tokens that count in the loss."""
        return int(self.weights.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens that are no padding."""
        return int((self.segment_ids > 0).sum())

    def rows(self, begin: int, end: int) -> Batch:
        """Some rows of the batch: a micro-batch, or one process's share."""
        cut = slice(begin, end)
        parts = (self.tokens[cut], self.targets[cut], self.weights[cut], self.segment_ids[cut], self.positions[cut])
        conditions = {name: values[cut] for name, values in self.conditions.items()}
        return Batch(*parts, start=self.start, end=self.end, conditions=conditions)


class Batches:
    """Batches of a store.

    Args:
        store: the samples.
        batch_size: rows, B.
        sequence_length: tokens per row, T.
        seed: of the order.
        shuffle: without it, samples come as they are stored.
        pad_id: what padding holds; it is never a target and never seen.
        space: the conditions that the model reads; those that the samples have are in the batches.
    """

    def __init__(
        self,
        store: TokenStore,
        batch_size: int,
        sequence_length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        pad_id: int = 0,
        space: ConditionSpace | None = None,
    ) -> None:
        if batch_size < 1 or sequence_length < 1:
            raise ValueError("batch_size and sequence_length must be at least 1")
        self.store = store
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.pad_id = pad_id
        pieces = -(-(store.lengths - 1) // sequence_length)
        self._simple = bool((pieces == 1).all())
        self._firsts: Ints = np.cumsum(pieces) - pieces
        self.num_pieces = int(pieces.sum())
        self.order = Order(self.num_pieces, seed, shuffle=shuffle)
        self._columns = {} if space is None else _columns(store, space)

    def sample_of(self, number: int) -> int:
        """The sample that piece `number` is cut from."""
        return number if self._simple else int(np.searchsorted(self._firsts, number, side="right")) - 1

    def piece(self, number: int) -> tuple[int, int]:
        """(start, end) in the store of piece `number`: the tokens that are read; the targets are one further."""
        sample = self.sample_of(number)
        first, last = int(self.store.offsets[sample]), int(self.store.offsets[sample + 1]) - 1
        start = first + (number - int(self._firsts[sample])) * self.sequence_length
        return start, min(start + self.sequence_length, last)

    def at(self, position: int, *, limit: int | None = None) -> Batch:
        """The batch that starts at `position`, up to position `limit` at most."""
        B, T = self.batch_size, self.sequence_length
        room = [T] * B
        plan: list[tuple[int, int, int, int]] = []
        end = position
        open_rows = 0  # rows before it are full
        while limit is None or end < limit:
            number = self.order[end]
            start, stop = self.piece(number)
            length = stop - start
            row = next((r for r in range(open_rows, B) if room[r] >= length), -1)
            if row < 0:
                break
            plan.append((row, start, stop, number))
            room[row] -= length
            end += 1
            while open_rows < B and room[open_rows] == 0:
                open_rows += 1
            if open_rows == B:
                break
        return self._fill(plan, position, end)

    def _fill(self, plan: list[tuple[int, int, int, int]], position: int, end: int) -> Batch:
        B, T = self.batch_size, self.sequence_length
        tokens = np.full((B, T), self.pad_id, dtype=np.int64)
        targets = np.zeros((B, T), dtype=np.int64)
        weights = np.zeros((B, T), dtype=np.float32)
        segments = np.zeros((B, T), dtype=np.int64)
        positions = np.zeros((B, T), dtype=np.int64)
        used, count = [0] * B, [0] * B
        conditions = {name: np.zeros((B, T, width), dtype=np.float32) for name, (width, _) in self._columns.items()}
        for row, start, stop, number in plan:
            ids, mask = self.store.read(start, stop + 1)
            begin, length = used[row], stop - start
            count[row] += 1
            cut = slice(begin, begin + length)
            tokens[row, cut] = ids[:-1]
            weights[row, cut] = mask[1:]
            targets[row, cut] = np.where(mask[1:], ids[1:], 0)
            segments[row, cut] = count[row]
            positions[row, cut] = np.arange(length)
            used[row] = begin + length
            if conditions:
                dimensions, values = self.store.condition(self.sample_of(number))
                for name, (_, columns) in self._columns.items():
                    own = columns[dimensions] >= 0
                    conditions[name][row, cut][:, columns[dimensions[own]]] = values[own]
        return Batch(tokens, targets, weights, segments, positions, position, end, conditions)

    def from_position(self, position: int = 0) -> Iterator[Batch]:
        """Batch after batch from `position` on, without end."""
        while True:
            batch = self.at(position)
            yield batch
            position = batch.end

    def one_pass(self, limit: int | None = None) -> Iterator[Batch]:
        """Every piece once (of the first epoch), the last batch perhaps not full; at most `limit` pieces."""
        last = self.num_pieces if limit is None else min(limit, self.num_pieces)
        position = 0
        while position < last:
            batch = self.at(position, limit=last)
            yield batch
            position = batch.end


def _columns(store: TokenStore, space: ConditionSpace) -> dict[str, tuple[int, Ints]]:
    """Of each condition that the model reads and the store has: its width C, and the column of every dimension of the
    store, -1 for those of other conditions.

    Raises:
        ValueError: the store has a name that the space lacks.
    """
    found: dict[str, tuple[int, Ints]] = {}
    for number, (condition, name) in enumerate(store.dimensions):
        if condition not in space.widths:
            continue
        column = space.column(condition, name)
        if column is None:
            raise ValueError(f"the space lacks {name!r} of the condition {condition!r}")
        if condition not in found:
            found[condition] = (space.widths[condition], np.full(len(store.dimensions), -1, dtype=np.int64))
        found[condition][1][number] = column
    return found
