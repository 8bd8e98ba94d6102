"""A job while the model works on it: one row of a batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from luna_kernel.chat.streaming import AnswerText
from luna_kernel.model.sampling import make_generator, sample

from .jobs import Job, Tally


class Row:
    """What is remembered of one answer beside the model's state.

    Args:
        job: the answer.
        model: that will make it.
        tokenizer: decodes its ids.
        tally: counts its tokens.
    """

    def __init__(self, job: Job, model: Any, tokenizer: Any, tally: Tally) -> None:
        self.job = job
        self.waiting = list(job.prompt)
        """Ids that the model has yet to read."""
        self.thinking = job.thought is not None
        self.manner = repr(job.sampling.model_copy(update={"seed": None}))
        """Rows of the same one are drawn together."""
        self.room = model.dims.max_positions - len(job.prompt)
        """Tokens that still fit into the context."""
        self.token = 0
        """What the model reads next, once it has read the prompt."""
        self.seen: torch.Tensor | None = None
        self._forced: deque[int] = deque()
        """Ids that come next whatever is drawn."""
        self._tally = tally
        device = model.embedding.weight.device
        self._stream: Callable[[], Any] = tokenizer.stream
        self._chance: Callable[[], torch.Generator] = lambda: make_generator(job.sampling, device, job.index)
        self._begin()
        if job.sampling.repetition_penalty != 1:
            self.seen = torch.zeros(model.dims.vocab_size, dtype=torch.bool, device=device)
            self.seen[job.prompt] = True
            # The same memory, without an operation of torch for each token.
            self._marks: Any = self.seen.numpy() if device.type == "cpu" else self.seen

    def _begin(self) -> None:
        """Begin to speak: the thought, or the answer."""
        self.text = AnswerText(self._stream(), self.job.stop)
        self.generator = self._chance()
        self._left = self.job.max_tokens

    def _tell(self, text: str) -> None:
        """Tell a piece of what is being said."""
        if text and self.thinking and self.job.thought is not None:
            self.job.thought.tell(text)
        elif text:
            self.job.tell(text, None)

    def _read(self, token: int) -> None:
        """Let the model read `token` next."""
        self.token = token
        self.room -= 1
        if self.seen is not None:
            self._marks[token] = True

    def take(self, token: int) -> bool:
        """Take the token that was drawn; whether the row goes on."""
        job = self.job
        if not job.first_at:
            job.first_at = time.monotonic()
        if self._forced:
            self._read(self._forced.popleft())
            if not self._forced:
                self._begin()
            return self.room > 0 or self.end("length")
        if token in job.end_ids:
            return self._answer_now() if self.thinking else self.end("stop")
        job.made += 1
        job.mused += self.thinking
        self._left -= 1
        self._tally.generated += 1
        self._read(token)
        self._tell(self.text.push(token))
        if self.text.stopped:
            return self.end("stop")
        if self._left <= 0 or self.room <= 0:
            return self.end("length")
        return True

    def _answer_now(self) -> bool:
        """The thought has ended: the model reads its end, and the opening of the answer; whether there is room."""
        assert self.job.thought is not None
        self._tell(self.text.finish())
        self.thinking = False
        self._forced.extend(self.job.thought.closing)
        return self.take(0)

    def end(self, reason: str) -> bool:
        """Tell the rest and the reason; always False."""
        self.job.ended_at = time.monotonic()
        rest = "" if self.text.stopped else self.text.finish()
        if reason in ("stop", "length"):
            self._tell(rest)
        self.job.tell("", reason)
        return False

    def fail(self, error: BaseException) -> bool:
        """End with an error; always False."""
        self.job.error = error
        return self.end("error")


def take_drawn(rows: Sequence[Row], logits: torch.Tensor) -> list[bool]:
    """Draw a token for each row from logits (B, V) and let it take it; which rows go on.

    Rows of equal sampling are drawn together; what cannot be drawn from ends with its own rows.
    """
    goes_on = [False] * len(rows)
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.manner, []).append(place)
    for places in groups.values():
        alike = [rows[place] for place in places]
        try:
            tokens = _draw(alike, logits if len(groups) == 1 else logits[places])
        except Exception as error:  # noqa: BLE001 - its own fault, and nobody else's
            for row in alike:
                row.fail(error)
            continue
        for place, row, token in zip(places, alike, tokens, strict=True):
            goes_on[place] = row.take(token)
    return goes_on


def _draw(rows: Sequence[Row], logits: torch.Tensor) -> list[int]:
    """A token for each of `rows`, whose sampling is the same, from logits (B, V)."""
    seen = None if rows[0].seen is None else torch.stack([row.seen for row in rows if row.seen is not None])
    tokens: list[int] = sample(logits, rows[0].job.sampling, [row.generator for row in rows], seen).tolist()
    return tokens


def conditions(rows: Sequence[Row], model: Any) -> dict[str, torch.Tensor] | None:
    """{name: (B, C)} of all that the rows' jobs are conditioned on, zeros where one is not."""
    names = {name for row in rows for name in row.job.condition}
    if not names:
        return None
    device, widths = model.embedding.weight.device, model.conditions
    return {
        name: torch.tensor([list(row.job.condition.get(name) or [0.0] * widths[name]) for row in rows], device=device)
        for name in names
    }
