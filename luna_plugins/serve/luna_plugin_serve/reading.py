"""Prompts being read: a piece at a time, so that those who are being answered wait for one piece only.

Short prompts that wait together are read together, with padding on the left of the shorter ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from luna_kernel.model.decoding_threads import DecodingThreads

from .jobs import Job, Tally
from .rows import Row, conditions

PIECE = 256
"""Tokens of prompts that are read between two tokens of others."""
_WASTE = 1.5
"""Prompts are read together as long as that is at most so many times their tokens, padding included."""


class Reading:
    """The prompts that are being read, some short ones or one of any length.

    Args:
        model: reads them.
        tokenizer: of their answers.
        tally: counts their tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, tally: Tally) -> None:
        self.rows: list[Row] = []
        self._model, self._tokenizer, self._tally = model, tokenizer, tally
        self._device = model.embedding.weight.device
        self._state: Any = None
        self._again: list[Row] = []
        """Rows that could not be read together: each is read alone, so that only who is at fault fails."""

    @property
    def all_rows(self) -> list[Row]:
        """Those too which are still to be read alone."""
        return [*self.rows, *self._again]

    def fitting(self, jobs: Sequence[Job], room: int) -> int:
        """How many of the first `jobs`, which wait, to begin with now; at most `room`."""
        if self.all_rows or not jobs or room < 1:
            return 0
        limit, longest, total = min(self._model.prefill_piece, PIECE), 0, 0
        for count, job in enumerate(jobs[:room]):
            longest, total = max(longest, len(job.prompt)), total + len(job.prompt)
            padded = (count + 1) * longest
            if count and (padded > limit or padded > _WASTE * total):
                return count
        return min(len(jobs), room)

    def begin(self, jobs: Sequence[Job]) -> None:
        """Begin with jobs, as many as were `fitting`."""
        self._start([row for job in jobs if (row := self._row(job)) is not None])

    def _row(self, job: Job) -> Row | None:
        try:
            return Row(job, self._model, self._tokenizer, self._tally)
        except Exception as error:  # noqa: BLE001 - its own fault, and nobody else's
            job.error = error
            job.tell("", "error")
            return None

    def _start(self, rows: list[Row]) -> None:
        self.rows = rows
        self._state = self._model.make_state(len(rows), self._model.dims.max_positions) if rows else None

    def read(self, threads: DecodingThreads, *, busy: bool) -> tuple[list[Row], Any, torch.Tensor] | None:
        """Read a piece, smaller where others are `busy` speaking.

        Returns:
            Once all was read: the rows, the state of the model, and the logits (B, V) of the last tokens.
        """
        if not self.rows and self._again:
            self._start([self._again.pop(0)])
        if not self.rows:
            return None
        try:
            logits = self._piece(threads, min(self._model.prefill_piece, PIECE if busy else 1 << 30))
        except Exception as error:  # noqa: BLE001 - one bad prompt must not end the others
            rows = self.rows
            self._start([])
            if len(rows) == 1:
                rows[0].fail(error)
            else:
                self._again += rows
            return None
        if logits is None:
            return None
        rows, state = self.rows, self._state
        self._start([])
        return rows, state, logits

    def _piece(self, threads: DecodingThreads, count: int) -> torch.Tensor | None:
        rows = self.rows
        longest = max(len(row.waiting) for row in rows)
        count = count if len(rows) == 1 else longest
        pieces = [row.waiting[:count] for row in rows]
        width = max(map(len, pieces))
        tokens = torch.tensor([[0] * (width - len(piece)) + piece for piece in pieces], device=self._device)
        segments = None
        if any(len(piece) < width for piece in pieces):
            real = [[0] * (width - len(piece)) + [1] * len(piece) for piece in pieces]
            segments = torch.tensor(real, device=self._device)
        with threads.for_tokens(tokens.numel()):
            output = self._model(
                tokens, segments, state=self._state, condition=conditions(rows, self._model), last_only=True
            )
        self._tally.read += sum(map(len, pieces))
        for row in rows:
            del row.waiting[:count]
        logits: torch.Tensor = output.logits[:, -1]
        return None if any(row.waiting for row in rows) else logits

    def drop(self, now: float) -> None:
        """Let go of what was given up."""
        reasons = {id(row): row.job.given_up(now) for row in self.all_rows}
        for row in self.all_rows:
            if reason := reasons[id(row)]:
                row.end(reason)
        self._again = [row for row in self._again if not reasons[id(row)]]
        left = [row for row in self.rows if not reasons[id(row)]]
        if len(left) < len(self.rows):
            self._start([])
            self._again = left + self._again  # short ones, or none: they begin anew

    def clear(self) -> list[Row]:
        """Let all go; who was there."""
        rows, self._again = self.all_rows, []
        self._start([])
        return rows
