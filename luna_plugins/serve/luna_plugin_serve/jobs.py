"""What the engine is asked for, and where it has got to."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from luna_kernel.model.sampling_config import Sampling


@dataclass(frozen=True)
class Thought:
    """What comes before an answer, when the prompt ends with the opening of a thought.

    `tell` is called as the job's own is, with pieces of the thought.
    """

    tell: Callable[[str], None]
    closing: tuple[int, ...]
    """Ids that the model reads once the thought has ended: its end, and the opening of the answer."""


@dataclass(eq=False)
class Job:
    """One answer to be generated.

    `tell` is called from the engine's thread with each piece of text that is certain, and at the end with "" and the
    reason: `stop`, `length`, `cancelled`, `timeout` or `error`.
    """

    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    end_ids: frozenset[int]
    tell: Callable[[str, str | None], None]
    stop: tuple[str, ...] = ()
    condition: Mapping[str, Sequence[float]] = field(default_factory=dict)
    thought: Thought | None = None
    """It may have as many tokens as the answer; without an end it is all there is."""
    index: int = 0
    """Tells the answers to one request apart: `n` of OpenAI's protocol."""
    deadline: float = float("inf")
    """`time.monotonic()` at which it is given up."""
    error: BaseException | None = None
    made: int = 0
    """Tokens generated, the end tokens not among them."""
    mused: int = 0
    """Those of the thought among them."""
    queued_at: float = field(default_factory=time.monotonic)
    first_at: float = 0.0
    ended_at: float = 0.0
    cancelled: bool = False

    def cancel(self) -> None:
        """Give it up: its row leaves the batch before the next token."""
        self.cancelled = True

    def given_up(self, now: float) -> str | None:
        """Why nobody waits for it any more at `now`, if so."""
        return "cancelled" if self.cancelled else "timeout" if now > self.deadline else None


@dataclass
class Tally:
    """Tokens of all jobs."""

    generated: int = 0
    read: int = 0
