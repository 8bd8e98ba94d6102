"""How many threads a model's passes are fastest with: found out by running it.

One token of a small model is hundreds of operations of microseconds each. To share those out costs more than it gains,
and where other programs use the cores each operation waits for the slowest thread: measured many times slower. A large
model, and a long piece of a prompt, want all cores.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

_SECONDS = 0.3
_MOST_ROUNDS = 9
_GAIN = 0.9
"""Several threads must take less than this share of one thread's time."""
_MANY = 64
"""Tokens at once from which on all threads share a pass."""


class DecodingThreads:
    """Runs passes of `model` with as many threads as suit them. Torch's own number stays as it was.

    Attributes:
        most: threads that torch has here; what the user allows.
        few: those for a token at a time, 1 or `most`.
    """

    def __init__(self, model: Any) -> None:
        self.most = torch.get_num_threads()
        self.few = self.most
        if self.most > 1 and model.embedding.weight.device.type == "cpu":
            with contextlib.suppress(Exception), torch.no_grad():  # one that cannot run says so when it is asked
                self.few = self._fastest(model)
            torch.set_num_threads(self.most)

    def settle(self) -> None:
        """Let the thread that calls this have those for a token at a time, from now on."""
        torch.set_num_threads(self.few)

    def _fastest(self, model: Any) -> int:
        """Take turns, so that whatever else the machine does meets both."""
        state = model.make_state(1, min(2 * _MOST_ROUNDS + 2, model.dims.max_positions))
        token = torch.zeros(1, 1, dtype=torch.int64)

        def seconds(threads: int) -> float:
            torch.set_num_threads(threads)
            begin = time.perf_counter()
            model(token, state=state, last_only=True)
            return time.perf_counter() - begin

        first = seconds(self.most)
        rounds = max(1, min(_MOST_ROUNDS, int(_SECONDS / (2 * first)), (state.max_length - 1) // 2))
        taken = [(seconds(1), seconds(self.most)) for _ in range(rounds)]
        one, all_of_them = (statistics.median(times) for times in zip(*taken, strict=True))
        return self.most if all_of_them < _GAIN * one else 1

    @contextlib.contextmanager
    def for_tokens(self, count: int) -> Iterator[None]:
        """Threads for a pass over `count` tokens."""
        before, wanted = torch.get_num_threads(), self.few if count < _MANY else self.most
        if wanted == before:
            yield
            return
        torch.set_num_threads(wanted)
        try:
            yield
        finally:
            torch.set_num_threads(before)
