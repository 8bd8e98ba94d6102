"""Generation: token ids out of a model, one by one, with caches.

    run = generate(model, prompt_ids, Sampling(temperature=0.7), end_ids=[end], max_tokens=200)
    for token in run:
        ...
    run.finish_reason      # "end", "length", "context", "stopped"

The rule at the edge of the context: a prompt that leaves no room for an answer is refused, never cut in silence
(whoever makes the prompt knows which turns or passages to leave out); an answer that fills the context ends there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

from .decoder import Decoder, Output
from .decoding_threads import DecodingThreads
from .sampling import make_generator, sample
from .sampling_config import Sampling
from .state import DecodeState

t = catalogue(__package__)

_LONG = 64
"""Tokens from which a pass may be left in the middle."""


class Generation(Iterator[int]):
    """One answer in the making; iterate over it to get the token ids. The end token is not among them.

    Attributes:
        finish_reason: None while it runs; `end` (an end token), `length` (`max_tokens`), `context` (the context is
            full) or `stopped` (`should_stop`).
        tokens: the ids given so far.
        state: what the model has seen: the prompt and the answer but its last token.
    """

    def __init__(
        self,
        model: Decoder,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        end_ids: Iterable[int] = (),
        max_tokens: int | None = None,
        should_stop: Callable[[], bool] | None = None,
        state: DecodeState | None = None,
        condition: dict[str, Tensor] | None = None,
        read_ids: Sequence[int] = (),
        pause: int,
        at_pause: Callable[[], None] | None,
        after_prompt: Callable[[Tensor], None] | None,
        first_logits: Tensor | None,
        threads: DecodingThreads | None,
    ) -> None:
        self.model = model
        self._threads = threads
        self.sampling = sampling
        self.end_ids = frozenset(end_ids)
        self.max_tokens = max_tokens
        self.should_stop = should_stop or (lambda: False)
        self.condition = condition
        self._pause, self._at_pause = pause, at_pause
        self._after_prompt, self._first_logits = after_prompt, first_logits
        self.finish_reason: str | None = None
        self.tokens: list[int] = []
        limit = model.dims.max_positions if state is None else state.max_length
        used = 0 if state is None else state.length
        if not prompt_ids and first_logits is None:
            raise ValueError("the prompt is empty: give at least one token, such as the turn's opening")
        if used + len(prompt_ids) >= limit:
            raise UsageError(
                t("generation.prompt_too_long", length=used + len(prompt_ids), limit=limit),
                hint=t("generation.prompt_too_long.hint"),
            )
        self.state = model.make_state(1, limit) if state is None else state
        self._device = model.embedding.weight.device
        self._waiting = list(prompt_ids)
        self._generator = make_generator(sampling, self._device)
        self._seen: Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(1, model.dims.vocab_size, dtype=torch.bool, device=self._device)
            self._seen[0, list(read_ids)] = True

    def __next__(self) -> int:
        if self.finish_reason is not None:
            raise StopIteration
        if self.max_tokens is not None and len(self.tokens) >= self.max_tokens:
            return self._finish("length")
        if self.state.length + len(self._waiting) > self.state.max_length:
            return self._finish("context")
        logits = self._feed() if self._waiting else self._first()
        if logits is None:
            return self._finish("stopped")
        if self._after_prompt is not None and not self.tokens:
            self._after_prompt(logits)
        token = int(sample(logits, self.sampling, [self._generator], self._seen))
        if token in self.end_ids:
            return self._finish("end")
        self.tokens.append(token)
        self._waiting = [token]
        return token

    def _finish(self, reason: str) -> int:
        self.finish_reason = reason
        raise StopIteration

    def _first(self) -> Tensor | None:
        """The logits of a prompt that was read before, or None if told to stop."""
        return None if self.should_stop() else self._first_logits

    @torch.no_grad()
    def _feed(self) -> Tensor | None:
        """Run what waits through the model; logits (1, V) of the last token, or None if told to stop."""
        logits: Tensor | None = None
        while self._waiting:
            if self.should_stop():
                return None
            count = self.model.prefill_piece
            if self._pause > 0:
                count = min(count, self._pause)
            piece = torch.tensor([self._waiting[:count]], device=self._device)
            with self._threads.for_tokens(piece.shape[1]) if self._threads else contextlib.nullcontext():
                logits = self._read(piece)
            if logits is None:
                return None
            if self._seen is not None:
                self._seen[0, piece[0]] = True
            del self._waiting[:count]
            self._pause -= piece.shape[1]
            if self._pause == 0 and self._at_pause is not None:
                self._at_pause()
        return logits

    def _read(self, piece: Tensor) -> Tensor | None:
        """A pass over a piece (1, T); logits (1, V) of its last token. None if told to stop: nothing of it was read.

        A long piece of a large model takes a second, so there it is asked before each block.
        """
        if piece.shape[1] < _LONG:
            output = self.model(piece, state=self.state, condition=self.condition, last_only=True)
            assert isinstance(output, Output)
            return output.logits[:, -1]
        before = self.state.snapshot()

        def ask(*_: object) -> None:
            if self.should_stop():
                raise _StoppedError

        hooks = [block.register_forward_pre_hook(ask) for block in self.model.blocks]
        try:
            output = self.model(piece, state=self.state, condition=self.condition, last_only=True)
        except _StoppedError:
            self.state.restore(before)
            return None
        finally:
            for hook in hooks:
                hook.remove()
        assert isinstance(output, Output)
        return output.logits[:, -1]


class _StoppedError(Exception):
    """A pass was left in the middle."""


def generate(
    model: Decoder,
    prompt_ids: Sequence[int],
    sampling: Sampling | None = None,
    *,
    end_ids: Iterable[int] = (),
    max_tokens: int | None = None,
    should_stop: Callable[[], bool] | None = None,
    state: DecodeState | None = None,
    condition: dict[str, Tensor] | None = None,
    read_ids: Sequence[int] = (),
    pause: int = 0,
    at_pause: Callable[[], None] | None = None,
    after_prompt: Callable[[Tensor], None] | None = None,
    first_logits: Tensor | None = None,
    threads: DecodingThreads | None = None,
) -> Generation:
    """Answer a prompt, token by token.

    Args:
        model: in `eval` mode.
        prompt_ids: not empty, unless `first_logits` are given. With `state`, only what comes after that which the
            state has seen.
        sampling: how tokens are chosen; None: its defaults.
        end_ids: tokens that end the answer.
        max_tokens: of the answer; None: as far as the context reaches.
        should_stop: asked before each token, and before each block that reads a piece of the prompt.
        state: a conversation's state, to go on from; it is updated.
        condition: named vectors for the layers, (1, C).
        read_ids: what `state` has read already, so that the repetition penalty counts it too.
        pause: after so many tokens of the prompt `at_pause` is called; 0: never.
        at_pause: for a snapshot of the state in the middle of a prompt.
        after_prompt: called with the logits (1, V) of the prompt's last token: for a snapshot of state and opinion.
        first_logits: what `after_prompt` was given, when `state` has read the whole prompt.
        threads: how many suit a pass; None: as many as torch has.

    Raises:
        UsageError: the prompt leaves no room for an answer.
    """
    return Generation(
        model,
        prompt_ids,
        sampling or Sampling(),
        end_ids=end_ids,
        max_tokens=max_tokens,
        should_stop=should_stop,
        state=state,
        condition=condition,
        read_ids=read_ids,
        pause=pause,
        at_pause=at_pause,
        after_prompt=after_prompt,
        first_logits=first_logits,
        threads=threads,
    )


class StopMatcher:
    """Finds stop strings in streamed text, and holds back a tail that may become one.

    >>> stop = StopMatcher(["\\nUser:"])
    >>> stop.feed("Olá!\\nUs"), stop.feed("ina"), stop.feed("\\nUser: oi")
    ('Olá!', '\\nUsina', '')
    >>> stop.stopped
    True
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.stopped = False
        self._held = ""

    def feed(self, text: str) -> str:
        """Take the next piece; returns what may be shown now."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The answer is over: what was held back is text after all."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` and is not all of it."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-n:]):
            return n
    return 0
