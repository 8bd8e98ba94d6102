"""Decode states of several requests as one batch, and apart again: what a server needs to decode many at once.

    state = join_states([first, second])       # both go on together, one token each per pass
    state = select_rows(state, [1])            # the first is done

Rows of different length are aligned at their newest token: the shorter ones get padding (segment 0), which no real
token sees. What a layer keeps is joined along its first axis, the batch, if it is a tensor or a dataclass of such; a
state of another kind says how with `select_rows(index)` and `join(states)`, as `KVCache` does, which works in place.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from .state import BlockState, DecodeState


def join_states(states: Sequence[DecodeState]) -> DecodeState:
    """One state for the requests of all `states`, rows in order. The given states must not be used any more.

    The whole takes any number of slots: how long each request may become is for the caller to watch.

    Args:
        states: of one model, each with its tokens read; one at least.
    """
    blocks = [_join_blocks(parts) for parts in zip(*(state.blocks for state in states), strict=True)]
    position = torch.cat([state.next_position for state in states])
    length = max(state.length for state in states)
    return DecodeState(blocks, sum(state.batch for state in states), sys.maxsize, position, length)


def select_rows(state: DecodeState, rows: Sequence[int]) -> DecodeState:
    """The state of the requests `rows` alone, in this order. `state` must not be used any more.

    Args:
        rows: each row that stays in its place or, where that one leaves, in another: [0, 3, 2] of four.
    """
    index = torch.tensor(rows, dtype=torch.int64, device=state.next_position.device)
    blocks = [
        BlockState(
            _select(block.mixer, index), _select(block.ffn, index), [_select(m, index) for m in block.modulators]
        )
        for block in state.blocks
    ]
    position = state.next_position[index]
    length = min(state.length, int(position.max())) if rows else 0
    return DecodeState(blocks, len(rows), state.max_length, position, length)


def _join_blocks(parts: Sequence[BlockState]) -> BlockState:
    return BlockState(
        _join([part.mixer for part in parts]),
        _join([part.ffn for part in parts]),
        [_join(list(same)) for same in zip(*(part.modulators for part in parts), strict=True)],
    )


def _join(states: Sequence[Any]) -> Any:
    first = states[0]
    if first is None:
        return None
    if isinstance(first, Tensor):
        return torch.cat(list(states))
    if hasattr(first, "join"):
        return type(first).join(states)
    if is_dataclass(first):
        make: Any = type(first)
        return make(**{item.name: _join([getattr(s, item.name) for s in states]) for item in fields(first)})
    raise TypeError(f"{type(first).__qualname__} has no `join`, so requests with it cannot be batched")


def _select(state: Any, index: Tensor) -> Any:
    if state is None:
        return None
    if isinstance(state, Tensor):
        return state[index]
    if hasattr(state, "select_rows"):
        return state.select_rows(index)
    if is_dataclass(state):
        make: Any = type(state)
        return make(**{item.name: _select(getattr(state, item.name), index) for item in fields(state)})
    raise TypeError(f"{type(state).__qualname__} has no `select_rows`, so requests with it cannot be batched")
