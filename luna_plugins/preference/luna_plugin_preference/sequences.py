"""Answers inside packed rows: where each begins, and the sum of its tokens' log-probabilities.

A sample is one or two sequences side by side, each a prompt, whose tokens are no targets, and an answer, whose tokens
are. A pair is so its own table of contents: the second sequence begins where targets are followed by what is none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from luna_kernel.contracts.data import Message, Record
from luna_kernel.data.dialogue import DialogueTemplate
from luna_kernel.train.engine import TensorBatch


@dataclass(frozen=True)
class Rows:
    """A micro-batch, its sequences told apart."""

    batch: TensorBatch
    """`segment_ids` and `positions` count sequences, not samples."""
    weights: Tensor
    """(B, T) bool, whether the target counts."""
    sequence: Tensor
    """(B, T) int64, the number of each token's sequence in the micro-batch, from 0; -1 for padding."""
    sample: Tensor
    """(N,) int64, the sample of each sequence, from 0."""
    keys: list[str]
    """Of each sample: a hash of its tokens and targets."""


def tell_apart(batch: TensorBatch) -> Rows:
    """Number the sequences of a micro-batch row by row, in the order in which they stand."""
    tokens = batch.tokens
    segments = torch.ones_like(tokens) if batch.segment_ids is None else batch.segment_ids
    weights = torch.ones_like(tokens, dtype=torch.bool) if batch.weights is None else batch.weights.bool()
    new_sample = torch.ones_like(weights)
    new_sample[:, 1:] = segments[:, 1:] != segments[:, :-1]
    # The last token of an answer predicts nothing of its own sequence: the one after it opens the next.
    after_answer = torch.zeros_like(weights)
    after_answer[:, 2:] = weights[:, :-2] & ~weights[:, 1:-1] & (segments[:, 2:] == segments[:, :-2])
    real = segments > 0
    starts = (new_sample | after_answer) & real
    sequence = torch.cumsum(starts.flatten().long(), 0).view_as(tokens) - 1
    sample_number = torch.cumsum((new_sample & real).flatten().long(), 0) - 1
    sample = sample_number[starts.flatten()]
    index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    first = torch.where(starts | (new_sample & ~real), index, torch.zeros_like(index)).cummax(1).values
    in_row = torch.cumsum(starts.long(), 1)
    changed = TensorBatch(
        tokens,
        batch.targets,
        weights,
        torch.where(real, in_row, torch.zeros_like(in_row)),
        index - first,
        batch.num_targets,
        {name: _per_token(value, tokens) for name, value in batch.condition.items()},
    )
    sequence = torch.where(real, sequence, torch.full_like(sequence, -1))
    return Rows(changed, weights, sequence, sample, _keys(batch, segments, weights))


def _per_token(value: Tensor, tokens: Tensor) -> Tensor:
    """A condition as (B, T, C), whatever it was."""
    return value if value.dim() == 3 else value[:, None].expand(-1, tokens.shape[1], -1)


def _keys(batch: TensorBatch, segments: Tensor, weights: Tensor) -> list[str]:
    tokens, targets = batch.tokens.cpu(), batch.targets.cpu()
    segments, weights = segments.cpu(), weights.cpu()
    keys = []
    for row in range(len(tokens)):
        for number in range(1, int(segments[row].max()) + 1):
            here = segments[row] == number
            digest = hashlib.blake2b(tokens[row][here].numpy().tobytes(), digest_size=16)
            digest.update(torch.where(weights[row], targets[row], -1)[here].numpy().tobytes())
            keys.append(digest.hexdigest())
    return keys


def log_probabilities(model: nn.Module, rows: Rows) -> tuple[Tensor, Tensor, Any]:
    """Of each sequence's answer: the sum of log-probabilities of its tokens (N,), float32, and their number (N,).

    The third is the model's output. Logits of targets alone become float32.
    """
    batch = rows.batch
    output: Any = model(batch.tokens, batch.segment_ids, batch.positions, batch.condition)
    losses = F.cross_entropy(output.logits[rows.weights].float(), batch.targets[rows.weights], reduction="none")
    owner = rows.sequence[rows.weights]
    sums = losses.new_zeros(len(rows.sample)).index_add(0, owner, -losses)
    counts = torch.bincount(owner, minlength=len(rows.sample))
    return sums, counts, output


def as_rows(sequences: Sequence[tuple[Sequence[int], Sequence[bool]]], device: torch.device | str = "cpu") -> Rows:
    """Sequences of (ids, targets), one a row, padded on the right."""
    width = max(len(ids) for ids, _ in sequences) - 1
    tokens = torch.zeros(len(sequences), width, dtype=torch.int64)
    targets, segments = torch.zeros_like(tokens), torch.zeros_like(tokens)
    weights = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, (ids, mask) in enumerate(sequences):
        length = len(ids) - 1
        tokens[row, :length] = torch.as_tensor(ids[:-1])
        weights[row, :length] = torch.as_tensor(mask[1:])
        targets[row, :length] = torch.as_tensor(ids[1:]) * weights[row, :length]
        segments[row, :length] = 1
    positions = torch.arange(width).expand_as(tokens)
    parts = [part.to(device) for part in (tokens, targets, weights, segments, positions)]
    return tell_apart(TensorBatch(*parts, int(weights.sum())))


def render_answer(
    template: DialogueTemplate, messages: Sequence[Message], answer: Message, limit: int | None
) -> tuple[list[int], list[bool]] | None:
    """A prompt and one answer; the answer alone is a target. Of a prompt that is too long the oldest turns are left
    out, a question with its answer, the system message never; None if it is too long even so."""
    head = [message for message in messages[:1] if message.role == "system"]
    turns = list(messages[len(head) :])
    while True:
        prompt, _ = template.render([*head, *turns], answer=True, thoughts=False)
        ids, mask = template.render([answer])
        opened = [*prompt[:-1], *ids]
        if limit is None or len(opened) <= limit:
            return opened, [*[False] * (len(prompt) - 1), *mask]
        if len(turns) < 3:
            return None
        turns = turns[2:]


def prompt_and_answer(record: Record) -> tuple[tuple[Message, ...], Message] | None:
    """The messages before the last answer, and that answer; None of what ends otherwise."""
    if not record.messages or record.messages[-1].role != "assistant" or len(record.messages) < 2:
        return None
    return record.messages[:-1], record.messages[-1]
