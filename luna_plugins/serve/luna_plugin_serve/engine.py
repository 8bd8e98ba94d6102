"""One model, many requests at once: continuous batching.

A thread of its own runs the model. Between two tokens of the requests that are being answered it lets new ones in: it
reads a piece of their prompt, and once all of it is read, their row joins the batch. Who is done leaves at once. Each
request draws from its own source of chance and has its own state, so that no answer depends on who else is there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.streaming import AnswerText
from luna_kernel.model.batching import join_states, select_rows
from luna_kernel.model.decoding_threads import DecodingThreads
from luna_kernel.model.sampling import make_generator, sample
from luna_kernel.model.sampling_config import Sampling

t = catalogue(__package__)


class QueueFullError(LunaError):
    """More requests wait than the server takes."""


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


class _Row:
    """A job while the model works on it."""

    def __init__(self, job: Job, engine: Engine) -> None:
        self.job = job
        self.waiting = list(job.prompt)
        self._engine = engine
        self.thinking = job.thought is not None
        self.forced: deque[int] = deque()
        """Ids that come next whatever is drawn."""
        self.manner = repr(job.sampling.model_copy(update={"seed": None}))
        """Rows of the same one are drawn together."""
        self.begin()
        self.seen: torch.Tensor | None = None
        if job.sampling.repetition_penalty != 1:
            self.seen = torch.zeros(engine.model.dims.vocab_size, dtype=torch.bool, device=engine.device)
            self.seen[job.prompt] = True
            # The same memory, without an operation of torch for each token.
            self._marks: Any = self.seen.numpy() if engine.device.type == "cpu" else self.seen
        self.room = engine.model.dims.max_positions - len(job.prompt)
        """Tokens that still fit into the context."""
        self.token = 0

    def begin(self) -> None:
        """Begin to speak: the thought, or the answer."""
        job = self.job
        self.text = AnswerText(self._engine.tokenizer.stream(), job.stop)
        self.generator = make_generator(job.sampling, self._engine.device, job.index)
        self.left = job.max_tokens

    def tell(self, text: str) -> None:
        """Tell a piece of what is being said."""
        if text and self.thinking and self.job.thought is not None:
            self.job.thought.tell(text)
        elif text:
            self.job.tell(text, None)

    def read(self, token: int) -> None:
        """Let the model read `token` next."""
        self.token = token
        self.room -= 1
        if self.seen is not None:
            self._marks[token] = True


class Engine:
    """Runs `model` for many requests.

    Args:
        model: a `Decoder` in eval mode; nobody else may run it.
        tokenizer: decodes its ids.
        max_batch: requests that are answered at the same time.
        max_queue: requests that may wait beyond that.
        after_step: called from the engine's thread with `urgent` after each token of all rows, and with True before it
            does what takes long, so that what `tell` was given can be handed over together.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_batch: int = 32,
        max_queue: int = 128,
        after_step: Callable[[bool], None] = lambda urgent: None,
    ) -> None:
        self.model = model
        self.after_step = after_step
        self.tokenizer = tokenizer
        self.device = model.embedding.weight.device
        self.max_batch = max_batch
        self.max_queue = max_queue
        self._queue: deque[Job] = deque()
        self._wake = threading.Condition()
        self._turn = threading.Lock()
        """Held while the model runs."""
        self._closing = False
        self._rows: list[_Row] = []
        self._state: Any = None
        self._reading: tuple[_Row, Any] | None = None
        """The row whose prompt is being read, and its own state."""
        self.tokens_generated = 0
        self.tokens_read = 0
        self._thread = threading.Thread(target=self._run, name="luna-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread works; it ends by `close` alone."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests that nothing was done for yet."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Requests that are being read or answered."""
        return len(self._rows) + (self._reading is not None)

    def submit(self, *jobs: Job) -> None:
        """Queue jobs, all or none.

        Raises:
            QueueFullError: too many wait already.
            UsageError: a prompt leaves no room for an answer.
        """
        limit = self.model.dims.max_positions
        for job in jobs:
            if not job.prompt or len(job.prompt) >= limit:
                raise UsageError(t("prompt_too_long", found=len(job.prompt), limit=limit - 1))
        with self._wake:
            if len(self._queue) + len(jobs) > self.max_queue + max(0, self.max_batch - self.running):
                raise QueueFullError(t("queue_full", limit=self.max_queue))
            self._queue.extend(jobs)
            self._wake.notify()

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[Any]:
        """The model for oneself, between two tokens: for embeddings."""
        with self._turn:
            yield self.model

    def close(self) -> None:
        """Give up all requests and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout=30)

    # --- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        with torch.inference_mode():
            self._threads = DecodingThreads(self.model)
            while True:
                with self._wake:
                    while not (self._queue or self._rows or self._reading or self._closing):
                        self._wake.wait()
                    if self._closing:
                        break
                try:
                    self._drop_given_up()
                    with self._turn:
                        self._read_some()
                    with self._turn:
                        self._step()
                    self.after_step(not self._rows)
                except Exception as error:  # noqa: BLE001 - one bad request must not end the server
                    self._fail_all(error)
                    self.after_step(True)
        for row in [*self._rows, *([self._reading[0]] if self._reading else [])]:
            self._end(row, "cancelled")
        for job in self._queue:
            job.tell("", "cancelled")
        self.after_step(True)

    def _drop_given_up(self) -> None:
        """Let go of what was cancelled or took too long."""
        now = time.monotonic()

        def given_up(job: Job) -> str | None:
            return "cancelled" if job.cancelled else "timeout" if now > job.deadline else None

        with self._wake:  # others add to it meanwhile
            dropped = [job for job in self._queue if given_up(job)]
            for job in dropped:
                self._queue.remove(job)
        for job in dropped:
            job.ended_at = now
            job.tell("", given_up(job))
        if self._reading and (reason := given_up(self._reading[0].job)):
            row, self._reading = self._reading[0], None
            self._end(row, reason)
        self._keep([row for row in self._rows if not (reason := given_up(row.job)) or self._end(row, reason)])

    def _read_some(self) -> None:
        """Read one piece of the prompt of the next request, if there is room for it in the batch."""
        if self._reading is None:
            with self._wake:
                if not self._queue or len(self._rows) >= self.max_batch:
                    return
                job = self._queue.popleft()
            self._reading = (_Row(job, self), self.model.make_state(1, self.model.dims.max_positions))
        self.after_step(True)
        row, state = self._reading
        try:
            logits = self._read_piece(row, state)
            token = None if logits is None else self._draw_for([row], logits)[0]
        except Exception as error:  # noqa: BLE001 - its own fault, and nobody else's
            self._reading = None
            self._fail(row, error)
            return
        if token is None:
            return
        self._reading = None
        if self._take(row, token):
            self._state = state if self._state is None else join_states([self._state, state])
            self._rows.append(row)

    def _read_piece(self, row: _Row, state: Any) -> torch.Tensor | None:
        """Logits (1, V) once the whole prompt is read, else None."""
        count = min(self.model.prefill_piece, 256 if self._rows else 1 << 30)
        piece = torch.tensor([row.waiting[:count]], device=self.device)
        condition = {name: torch.tensor([vector], device=self.device) for name, vector in row.job.condition.items()}
        with self._threads.for_tokens(piece.shape[1]):
            output = self.model(piece, state=state, condition=condition or None, last_only=True)
        self.tokens_read += piece.shape[1]
        del row.waiting[:count]
        return None if row.waiting else output.logits[:, -1]

    def _step(self) -> None:
        """One token for every row."""
        if not self._rows:
            return
        tokens = torch.tensor([[row.token] for row in self._rows], device=self.device)
        logits = self.model(tokens, state=self._state, condition=self._conditions(), last_only=True).logits[:, -1]
        drawn = self._draw(logits)
        self._keep(
            [row for row, token in zip(self._rows, drawn, strict=True) if token is not None and self._take(row, token)]
        )

    def _draw(self, logits: torch.Tensor) -> list[int | None]:
        """The next token of each row; None for one that failed. Rows of equal sampling are drawn together."""
        drawn: list[int | None] = [None] * len(self._rows)
        groups: dict[str, list[int]] = {}
        for place, row in enumerate(self._rows):
            groups.setdefault(row.manner, []).append(place)
        for places in groups.values():
            rows = [self._rows[place] for place in places]
            try:
                tokens = self._draw_for(rows, logits if len(groups) == 1 else logits[places])
            except Exception as error:  # noqa: BLE001 - what cannot be drawn from ends with its own rows
                for row in rows:
                    self._fail(row, error)
                continue
            for place, token in zip(places, tokens, strict=True):
                drawn[place] = token
        return drawn

    def _draw_for(self, rows: Sequence[_Row], logits: torch.Tensor) -> list[int]:
        """A token for each of `rows`, whose sampling is the same, from logits (B, V)."""
        seen = None if rows[0].seen is None else torch.stack([row.seen for row in rows if row.seen is not None])
        tokens: list[int] = sample(logits, rows[0].job.sampling, [row.generator for row in rows], seen).tolist()
        return tokens

    def _conditions(self) -> dict[str, torch.Tensor] | None:
        names = {name for row in self._rows for name in row.job.condition}
        if not names:
            return None
        widths = self.model.conditions
        vectors = {
            name: torch.tensor([list(row.job.condition.get(name, [0.0] * widths[name])) for row in self._rows])
            for name in names
        }
        return {name: vector.to(self.device) for name, vector in vectors.items()}

    def _take(self, row: _Row, token: int) -> bool:
        """Take the next token of a row; whether the row goes on."""
        job = row.job
        if not job.first_at:
            job.first_at = time.monotonic()
        if row.forced:
            row.read(row.forced.popleft())
            if not row.forced:
                row.begin()
            return row.room > 0 or self._end(row, "length")
        if token in job.end_ids:
            return self._answer_now(row) if row.thinking else self._end(row, "stop")
        job.made += 1
        job.mused += row.thinking
        row.left -= 1
        self.tokens_generated += 1
        row.read(token)
        row.tell(row.text.push(token))
        if row.text.stopped:
            return self._end(row, "stop")
        if row.left <= 0 or row.room <= 0:
            return self._end(row, "length")
        return True

    def _answer_now(self, row: _Row) -> bool:
        """The thought has ended: the model reads its end, and the opening of the answer; whether there is room."""
        assert row.job.thought is not None
        row.tell(row.text.finish())
        row.thinking = False
        row.forced.extend(row.job.thought.closing)
        return self._take(row, 0)

    def _end(self, row: _Row, reason: str) -> bool:
        """Tell the rest and the reason; always False."""
        row.job.ended_at = time.monotonic()
        rest = "" if row.text.stopped else row.text.finish()
        if reason in ("stop", "length"):
            row.tell(rest)
        row.job.tell("", reason)
        return False

    def _keep(self, rows: list[_Row]) -> None:
        """Let the others leave the batch."""
        if len(rows) == len(self._rows):
            return
        stay = set(map(id, rows))
        leaving = [place for place, row in enumerate(self._rows) if id(row) not in stay]
        kept = list(range(len(self._rows)))
        for place in leaving:  # the last one takes the place of who leaves
            while kept and id(self._rows[kept[-1]]) not in stay:
                kept.pop()
            if place < len(kept):
                kept[place] = kept.pop()
        self._state = select_rows(self._state, kept) if kept else None
        self._rows = [self._rows[place] for place in kept]

    def _fail(self, row: _Row, error: BaseException) -> None:
        row.job.error = error
        self._end(row, "error")

    def _fail_all(self, error: BaseException) -> None:
        rows, self._rows, self._state = [*self._rows, *([self._reading[0]] if self._reading else [])], [], None
        self._reading = None
        for row in rows:
            self._fail(row, error)
