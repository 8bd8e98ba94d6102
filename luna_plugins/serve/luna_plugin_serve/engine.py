"""One model, many requests at once: continuous batching.

A thread of its own runs the model. Between two tokens of the requests that are being answered it lets new ones in: it
reads a piece of their prompts (`reading.py`), and once all of it is read, their rows join the batch (`batch.py`). Who
is done leaves at once. Each request draws from its own source of chance and has its own state, so that no answer
depends on who else is there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.model.decoding_threads import DecodingThreads

from .batch import Batch
from .jobs import Job, Tally
from .reading import Reading
from .rows import take_drawn

t = catalogue(__package__)


class QueueFullError(LunaError):
    """More requests wait than the server takes."""


class Engine:
    """Runs `model` for many requests.

    Args:
        model: a `Decoder` in eval mode; nobody else may run it.
        tokenizer: decodes its ids.
        max_batch: requests that are answered at the same time.
        max_queue: requests that may wait beyond that.
        threads: how many suit the model's passes; None: found out.
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
        threads: DecodingThreads | None = None,
        after_step: Callable[[bool], None] = lambda urgent: None,
    ) -> None:
        self.model = model
        self.after_step = after_step
        self.device = model.embedding.weight.device
        self.max_batch = max_batch
        self.max_queue = max_queue
        self.tally = Tally()
        self._queue: deque[Job] = deque()
        self._wake = threading.Condition()
        self._turn = threading.Lock()
        """Held while the model runs."""
        self._closing = False
        self._threads = threads
        self._reading = Reading(model, tokenizer, self.tally)
        self._batch = Batch(model)
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
        return len(self._batch.rows) + len(self._reading.all_rows)

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
            self._threads = self._threads or DecodingThreads(self.model)
            self._threads.settle()
            while self._wait():
                self._work()
        for row in (*self._batch.clear(), *self._reading.clear()):
            row.end("cancelled")
        for job in self._queue:
            job.tell("", "cancelled")
        self.after_step(True)

    def _work(self) -> None:
        """What is between two tokens, and a token for every row."""
        try:
            self._drop_given_up()
            with self._turn:
                self._read_some()
            with self._turn:
                self._batch.step()
            self.after_step(not self._batch.rows)
        except Exception as error:  # noqa: BLE001 - one bad request must not end the server
            for row in (*self._batch.clear(), *self._reading.clear()):
                row.fail(error)
            self.after_step(True)

    def _wait(self) -> bool:
        """Until there is something to do; False once the engine is to end."""
        with self._wake:
            while not (self._queue or self.running or self._closing):
                self._wake.wait()
            return not self._closing

    def _drop_given_up(self) -> None:
        """Let go of what was cancelled or took too long."""
        now = time.monotonic()
        with self._wake:  # others add to it meanwhile
            dropped = [(job, reason) for job in self._queue if (reason := job.given_up(now))]
            for job, _ in dropped:
                self._queue.remove(job)
        for job, reason in dropped:
            job.ended_at = now
            job.tell("", reason)
        self._reading.drop(now)
        reasons = [row.job.given_up(now) for row in self._batch.rows]
        for row, given_up in zip(self._batch.rows, reasons, strict=True):
            if given_up:
                row.end(given_up)
        self._batch.keep([not given_up for given_up in reasons])

    def _read_some(self) -> None:
        """Read a piece of the next prompts, if there is room for them in the batch."""
        with self._wake:
            room = self.max_batch - self.running
            count = self._reading.fitting(list(islice(self._queue, max(0, room))), room)
            jobs = [self._queue.popleft() for _ in range(count)]
        if jobs:
            self._reading.begin(jobs)
        if not self._reading.all_rows:
            return
        self.after_step(True)
        assert self._threads is not None
        read = self._reading.read(self._threads, busy=bool(self._batch.rows))
        if read is not None:
            rows, state, logits = read
            self._batch.add(rows, state, take_drawn(rows, logits))
