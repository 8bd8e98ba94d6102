"""The rows that are being answered, one token each per pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from luna_kernel.model.batching import join_states, select_rows

from .rows import Row, conditions, take_drawn


class Batch:
    """Rows, and the state of `model` for them in the same order."""

    def __init__(self, model: Any) -> None:
        self.rows: list[Row] = []
        self._model = model
        self._state: Any = None

    def add(self, rows: Sequence[Row], state: Any, goes_on: Sequence[bool]) -> None:
        """Let those of `rows` join which go on; `state` has read all of their prompts."""
        places = [place for place, going in enumerate(goes_on) if going]
        if len(places) < len(rows):
            if not places:
                return
            state = select_rows(state, places)
        self._state = state if self._state is None else join_states([self._state, state])
        self.rows += [rows[place] for place in places]

    def step(self) -> None:
        """One token for every row."""
        if not self.rows:
            return
        tokens = torch.tensor([[row.token] for row in self.rows], device=self._model.embedding.weight.device)
        condition = conditions(self.rows, self._model)
        output = self._model(tokens, state=self._state, condition=condition, last_only=True)
        self.keep(take_drawn(self.rows, output.logits[:, -1]))

    def keep(self, goes_on: Sequence[bool]) -> None:
        """Let the others leave: the last rows take their places."""
        if all(goes_on):
            return
        kept = list(range(len(self.rows)))
        for place, going in enumerate(goes_on):
            while kept and not goes_on[kept[-1]]:
                kept.pop()
            if not going and place < len(kept):
                kept[place] = kept.pop()
        self._state = select_rows(self._state, kept) if kept else None
        self.rows = [self.rows[place] for place in kept]

    def clear(self) -> list[Row]:
        """Let all leave; who was there."""
        rows, self.rows, self._state = self.rows, [], None
        return rows
