"""From the states of tokens to one vector per text, and texts in batches of about equal length.

Shape letters: N texts, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

WAYS = ("cls", "max", "mean", "mean_sqrt_len", "lasttoken")
"""The ways of pooling that sentence-transformers names, all but the weighted mean."""


def pool(states: Tensor, there: Tensor, way: str) -> Tensor:
    """One vector for each row, (N, D).

    Args:
        states: (N, T, D).
        there: (N, T) bool, False at padding, which is on the right; each row has a token.
        way: one of `WAYS`: the first token's state, the largest of each number, the mean, the sum over the root of the
            count, the last token's state (Reimers and Gurevych 2019, arXiv:1908.10084, section 3).
    """
    mask = there.unsqueeze(-1)
    if way == "cls":
        return states[:, 0]
    if way == "max":
        return states.masked_fill(~mask, float("-inf")).amax(1)
    counts = there.sum(1)
    if way == "lasttoken":
        return states[torch.arange(len(states), device=states.device), counts - 1]
    total = (states * mask).sum(1)
    divisor = counts.to(states.dtype)
    return total / (divisor.sqrt() if way == "mean_sqrt_len" else divisor).unsqueeze(1)


def batches(sequences: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Places of the sequences, the longest first, in groups of up to `tokens` tokens with padding; one at least."""
    order = sorted(range(len(sequences)), key=lambda place: -len(sequences[place]))
    group: list[int] = []
    for place in order:
        widest = len(sequences[group[0]]) if group else len(sequences[place])
        if group and widest * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def padded(sequences: Sequence[Sequence[int]], padding: int = 0) -> tuple[Tensor, Tensor]:
    """Ids (N, T), int64, padded on the right, and where there are tokens, (N, T) bool."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    longest = int(lengths.max())
    ids = torch.tensor([[*sequence, *[padding] * (longest - len(sequence))] for sequence in sequences])
    return ids, torch.arange(longest)[None] < lengths[:, None]
