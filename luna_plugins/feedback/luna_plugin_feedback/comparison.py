"""A model before and after, on what it was not trained on.

Log-probabilities of answers are means per token, in nats, so that a long answer is not worse for its length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from luna_kernel.contracts.data import Message, Record
from luna_kernel.data.dialogue import DialogueTemplate

from .examples import Example

if TYPE_CHECKING:
    from luna_kernel.model.checkpoint import OpenedModel


@dataclass
class Scored:
    """What a model thinks of held-out texts; the same texts in the same order for every model."""

    better: list[float]
    """Per token, of each pair's chosen answer or each liked answer."""
    worse: list[float]
    """Per token, of each pair's rejected answer or each disliked answer."""
    answers: float
    """Bits per byte of the good held-out answers; NaN without any."""
    known: float
    """Bits per byte of dialogues that the model knew before; NaN without any."""


class Scorer:
    """Scores one model. Texts longer than it reads are left out."""

    def __init__(self, opened: OpenedModel) -> None:
        assert opened.tokenizer is not None
        self.model = opened.model
        self.template = DialogueTemplate(opened.tokenizer)
        self.device = next(opened.model.parameters()).device
        self.limit = int(opened.model.dims.max_positions)

    def nats(self, messages: Sequence[Message], *, last: bool) -> tuple[float, int] | None:
        """(sum of -log p, number of tokens) of what the assistant says: in the last turn, or in all; None: too long."""
        ids, mask = self.template.render(messages)
        if last:
            begin = len(self.template.render(messages[:-1])[0])
            mask = [flag and index >= begin for index, flag in enumerate(mask)]
        if len(ids) - 1 > self.limit or not any(mask[1:]):
            return None
        tokens = torch.tensor([ids], device=self.device)
        with torch.inference_mode():
            logits = self.model(tokens[:, :-1]).logits[0].float()
        wanted = torch.tensor(mask[1:], device=self.device)
        total = F.cross_entropy(logits[wanted], tokens[0, 1:][wanted], reduction="sum")
        return float(total), int(wanted.sum())

    def per_token(self, example: Example, answer: str) -> float | None:
        """Mean log-probability of an answer to the example's prompt."""
        found = self.nats([*_messages(example), Message("assistant", answer)], last=True)
        return None if found is None else -found[0] / found[1]

    def bits_per_byte(self, dialogues: Iterable[tuple[Sequence[Message], bool]]) -> float:
        """Bits of what the assistant says over its bytes; `True` beside a dialogue: in its last turn only."""
        nats, size = 0.0, 0
        for messages, last in dialogues:
            found = self.nats(messages, last=last)
            if found is not None:
                said = messages[-1:] if last else [message for message in messages if message.role == "assistant"]
                nats += found[0]
                size += sum(len(message.content.encode()) for message in said)
        return nats / math.log(2) / size if size else math.nan


def score(
    opened: OpenedModel,
    held_out: Sequence[Example],
    known: Sequence[Record],
    advance: Callable[[], object] = lambda: None,
) -> Scored:
    """Score a model; `advance` is called after each held-out example."""
    scorer = Scorer(opened)
    better: list[float] = []
    worse: list[float] = []
    good: list[tuple[Sequence[Message], bool]] = []
    for example in held_out:
        content = example.content
        sides = [(content["chosen"], True), (content["rejected"], False)] if "chosen" in content else []
        if "answer" in content:
            sides = [(content["answer"], bool(content.get("label", True)))]
        scores = [scorer.per_token(example, answer) for answer, _ in sides]
        if None not in scores:
            for value, (answer, is_good) in zip(scores, sides, strict=True):
                (better if is_good else worse).append(value or 0.0)
                if is_good:
                    good.append(([*_messages(example), Message("assistant", answer)], True))
        advance()
    dialogues = [(record.messages, False) for record in known if record.messages]
    return Scored(better, worse, scorer.bits_per_byte(good), scorer.bits_per_byte(dialogues))


def compare(before: Scored, after: Scored, *, paired: bool) -> dict[str, Any]:
    """The figures of both, as JSON without NaN.

    `accuracy`: share of pairs (of all combinations of a liked and a disliked answer, where they are no pairs) whose
    better answer is the likelier one; `margin`: by how much, in nats per token, on average. `moved`: the share whose
    margin grew.
    """
    rows = {}
    for name, scored in (("before", before), ("after", after)):
        margins = _margins(scored, paired)
        rows[name] = {
            "accuracy": sum(value > 0 for value in margins) / len(margins) if margins else None,
            "margin": sum(margins) / len(margins) if margins else None,
            "answers_bits_per_byte": _number(scored.answers),
            "known_bits_per_byte": _number(scored.known),
        }
    first, second = _margins(before, paired), _margins(after, paired)
    moved = sum(new > old for old, new in zip(first, second, strict=True)) / len(first) if first else None
    return {
        "held_out": len(before.better) if paired else len(before.better + before.worse),
        "moved": moved,
        **rows,
    }


def _margins(scored: Scored, paired: bool) -> list[float]:
    if paired:
        return [one - other for one, other in zip(scored.better, scored.worse, strict=True)]
    return [one - other for one in scored.better for other in scored.worse]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _messages(example: Example) -> list[Message]:
    return [Message(role, content) for role, content in example.prompt]  # type: ignore[arg-type]  # roles were checked
