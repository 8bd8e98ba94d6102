"""From a request to answers: messages become a turn, the conversation's steps prepare it, engine or quotation answers.

The steps (persona, documents) are those of one session that all requests share, one request at a time; that takes
milliseconds. What takes long, the model, is the engine's matter.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.chat.session import Session, clean_query
from luna_kernel.contracts.chat import Generator, Text, Turn
from luna_kernel.contracts.data import Message
from luna_kernel.model.sampling_config import Sampling

from .engine import Engine
from .handover import Handover, Inbox, Piece
from .jobs import Job, Thought
from .protocol import ChatRequest, CompletionRequest, new_id

t = catalogue(__package__)


class CannotThinkError(UsageError):
    """Thinking was asked for, and the model has not learnt to."""


MAX_MESSAGE = 200_000
"""Characters of one message; a longer one is refused."""
_REMEMBERED = 1000
"""Answers that feedback may still refer to."""


@dataclass
class Answering:
    """Answers to one request while they are made."""

    id: str
    pieces: AsyncIterator[Piece]
    prompt_tokens: int
    turn: Turn
    jobs: list[Job] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    @property
    def completion_tokens(self) -> int:
        """Tokens made so far, of all answers."""
        return sum(job.made for job in self.jobs)

    @property
    def thought_tokens(self) -> int | None:
        """Those of thoughts among them; None where nobody was to think."""
        return sum(job.mused for job in self.jobs) if self.turn.think else None

    def cancel(self) -> None:
        """Nobody waits for them any more."""
        for job in self.jobs:
            job.cancel()

    def timings(self) -> dict[str, float]:
        """Milliseconds of waiting, reading and answering, and tokens per second; empty for quotations."""
        done = [job for job in self.jobs if job.first_at]
        if not done:
            return {}
        first = min(job.first_at for job in done)
        last = max(job.ended_at or time.monotonic() for job in done)
        made = self.completion_tokens
        rate = (made - len(done)) / (last - first) if last > first and made > len(done) else 0.0
        return {
            "first_token_ms": round(1000 * (first - done[0].queued_at), 2),
            "predicted_ms": round(1000 * (last - first), 2),
            "predicted_n": made,
            "predicted_per_second": round(rate, 2),
            "prompt_n": self.prompt_tokens,
        }


class Service:
    """What the server serves.

    Args:
        session: its steps prepare every turn; its generator is a Luna model.
        engine: runs that model.
        handover: brings what the engine tells to the event loop; its `after_step` is the engine's.
        timeout: seconds that one answer may take, waiting included.
    """

    def __init__(self, session: Session, engine: Engine, handover: Handover, *, timeout: float = 600.0) -> None:
        assert isinstance(session.generator, LunaGenerator)
        self.session = session
        self.generator: LunaGenerator = session.generator
        self.engine = engine
        self.handover = handover
        self.timeout = timeout
        self.name = session.options.model
        self.persona = session.options.persona
        """Who speaks where a request does not say."""
        self._lock = threading.Lock()
        self._turns: OrderedDict[str, tuple[Turn, str]] = OrderedDict()
        """By the answer's id: the turn and its conversation."""

    # --- chat ------------------------------------------------------------------------------------------------------

    async def chat(self, request: ChatRequest) -> Answering:
        """Begin to answer.

        Raises:
            LunaError: the messages cannot be answered, or too many requests wait.
        """
        turn, generator, prompt = await asyncio.to_thread(self._prepare, request)
        name = new_id("chatcmpl")
        self._remember(name, turn, request.conversation)
        if generator is not self.generator:
            return Answering(name, _kept(_quoted(generator, turn, request.n), turn), 0, turn)
        return self._begin(name, [prompt], turn, request)

    def _prepare(self, request: ChatRequest) -> tuple[Turn, Generator | None, list[int]]:
        """The turn, who answers it (None: nobody knows), and the ids of the prompt if that is the model."""
        turn = self._turn(request)
        generator = self._run_steps(turn, request)
        if generator is not self.generator:
            return turn, generator, []
        messages, left_out = self.generator.fit(turn)
        if left_out:
            turn.notes["prompt"] = {"messages_left_out": left_out}
        return turn, generator, self.generator.template.render(messages, answer="thinking" if turn.think else True)[0]

    def _run_steps(self, turn: Turn, request: ChatRequest) -> Generator | None:
        """Let the steps before `generate` prepare the turn; who answers it."""
        with self._lock:
            session = self.session
            session.id = request.conversation
            session.options.persona = request.luna.persona or self.persona
            session.options.rag = request.luna.rag
            session.options.filters = tuple(request.luna.filters)
            if request.luna.filters and not (session.options.docs and session.step("rag")):
                raise UsageError(t("filters_without_documents"), about="filters")
            session.turns = _past(turn.history)
            for name in session.step_names:
                step = session.step(name)
                if name == "generate" and step is not None:
                    return step.choose(turn, session)  # type: ignore[attr-defined]  # the kernel's own step
                if name != "history" and step is not None:
                    self._run(name, turn, request)
        return self.generator

    def _run(self, name: str, turn: Turn, request: ChatRequest) -> None:
        step = self.session.step(name)
        assert step is not None
        try:
            for _ in step.run(turn, self.session):
                pass  # remarks are for a terminal
        except UsageError as error:
            if name == "persona" and request.luna.persona and error.about is None:
                raise UsageError(error.text, about="persona") from error  # without the places of this machine
            raise

    def _turn(self, request: ChatRequest) -> Turn:
        for message in request.messages:
            if len(message.text) > MAX_MESSAGE:
                raise UsageError(t("message_too_long", limit=MAX_MESSAGE))
        *earlier, last = request.messages
        if last.role != "user":
            raise UsageError(t("last_not_user", role=last.role))
        turn = Turn(clean_query(last.text, MAX_MESSAGE))
        for message in earlier:
            if message.role in ("system", "developer"):
                turn.system.append(message.text)
            elif message.text:
                turn.history.append(Message("user" if message.role == "user" else "assistant", message.text))
        turn.sampling = request.sampling(self.session.options.sampling)
        turn.think = request.thinks
        if turn.think and not self.generator.can_think:
            raise CannotThinkError(t("cannot_think", model=self.name))
        return turn

    # --- plain completions -----------------------------------------------------------------------------------------

    async def complete(self, request: CompletionRequest) -> Answering:
        """Begin to go on with texts."""
        turn = Turn("", sampling=request.sampling(replace(self.session.options.sampling, max_tokens=16)))
        prompts = [self.generator.tokenizer.encode(text) for text in request.prompts]
        return self._begin(new_id("cmpl"), prompts, turn, request)

    def _begin(
        self, name: str, prompts: Sequence[list[int]], turn: Turn, request: ChatRequest | CompletionRequest
    ) -> Answering:
        """Queue `n` answers for each prompt."""
        inbox = Inbox()
        self.handover.loop = asyncio.get_running_loop()
        count, limit = request.n, turn.sampling.max_tokens
        ends: frozenset[int] = frozenset() if request.ignore_eos else self.generator.template.end_ids
        condition = {key: self.generator.condition_vector(key, value) for key, value in turn.conditions.items()}
        sampling = Sampling(**{key: getattr(turn.sampling, key) for key in Sampling.model_fields})

        def teller(index: int) -> Any:
            return lambda text, reason: self.handover.tell(inbox, Piece(index, text, reason=reason))

        def thought(index: int) -> Thought | None:
            closing = self.generator.template.end_id, *self.generator.template.render([], answer=True)[0]
            tell = lambda text: self.handover.tell(inbox, Piece(index, text, thought=True))  # noqa: E731
            return Thought(tell, closing) if turn.think else None

        jobs = [
            Job(
                list(prompt), sampling, limit, ends, teller(place * count + copy),
                stop=turn.sampling.stop, condition=condition, thought=thought(place * count + copy), index=copy,
                deadline=time.monotonic() + self.timeout,
            )
            for place, prompt in enumerate(prompts)
            for copy in range(count)
        ]  # fmt: skip
        self.engine.submit(*jobs)
        return Answering(name, _kept(_pieces(inbox.queue, jobs), turn), sum(map(len, prompts)), turn, jobs)

    # --- feedback, embeddings --------------------------------------------------------------------------------------

    def _remember(self, name: str, turn: Turn, conversation: str) -> None:
        self._turns[name] = turn, conversation
        while len(self._turns) > _REMEMBERED:
            self._turns.popitem(last=False)

    def feedback(self, name: str, feedback: dict[str, Any]) -> bool:
        """Tell the plugins what a person thinks of an answer; False if it is not known (any more).

        Raises:
            LunaError: a plugin could not keep it.
        """
        known = self._turns.get(name)
        if known is None:
            return False
        with self._lock:
            turn, self.session.id = known
            self.session.plugins.tell("luna_chat_feedback", session=self.session, turn=turn, feedback=feedback)
        return True

    def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """The mean of the model's last hidden states for each text, of length 1, and how many tokens were read.

        Raises:
            UsageError: a text is empty, or longer than the model reads.
        """
        import torch

        limit = self.generator.context_length
        vectors, total = [], 0
        for text in texts:
            ids = self.generator.tokenizer.encode(text)
            if not ids:
                raise UsageError(t("empty_text"))
            if len(ids) > limit:
                raise UsageError(t("prompt_too_long", found=len(ids), limit=limit))
            with self.engine.exclusively() as model, torch.inference_mode():
                hidden = model.hidden(torch.tensor([ids], device=self.engine.device))
            vector = torch.nn.functional.normalize(hidden[0].float().mean(0), dim=0)
            vectors.append(vector.tolist())
            total += len(ids)
        return vectors, total


def _past(history: Sequence[Message]) -> list[Turn]:
    """Earlier messages as turns, for steps that look back."""
    turns: list[Turn] = []
    for message in history:
        if message.role == "user":
            turns.append(Turn(message.content, searched=True))
        elif turns:
            turns[-1].answer = message.content
    return turns


async def _kept(pieces: AsyncIterator[Piece], turn: Turn) -> AsyncIterator[Piece]:
    """The pieces; the turn keeps the first answer, for whoever judges it later."""
    async for piece in pieces:
        if piece.index == 0 and piece.thought:
            turn.thinking += piece.text
        elif piece.index == 0:
            turn.answer += piece.text
            turn.stop_reason = piece.reason or turn.stop_reason
        yield piece


async def _pieces(queue: asyncio.Queue[list[Piece]], jobs: Sequence[Job]) -> AsyncIterator[Piece]:
    """What the engine tells, until all answers have ended; pieces that wait together come together.

    Raises:
        LunaError: the engine failed, or it took too long.
    """
    left = len(jobs)
    while left:
        pieces = await queue.get()
        while not queue.empty():
            pieces += queue.get_nowait()
        merged: dict[tuple[int, bool], str] = {}  # an answer's thought comes before it, and stays before it
        for piece in pieces:
            if piece.reason is None:
                place = piece.index, piece.thought
                merged[place] = merged.get(place, "") + piece.text
                continue
            left -= 1
            if piece.reason in ("error", "timeout", "cancelled"):
                error = jobs[piece.index].error
                if isinstance(error, LunaError):
                    raise error
                raise LunaError(t(f"ended.{piece.reason}")) from error
            for thought in (True, False):
                if text := merged.pop((piece.index, thought), ""):
                    yield Piece(piece.index, text, thought)
            yield piece
        for (index, thought), text in merged.items():
            yield Piece(index, text, thought)


async def _quoted(generator: Generator | None, turn: Turn, count: int) -> AsyncIterator[Piece]:
    """The answer of a generator that needs no model, the same for each of `count`."""
    if generator is None:
        from luna_kernel.chat.steps import no_answer

        turn.stop_reason, texts = "no_answer", [no_answer()]
    else:
        texts = [event.text for event in generator.generate(turn, lambda: False) if isinstance(event, Text)]
    for index in range(count):
        for text in texts:
            yield Piece(index, text)
            await asyncio.sleep(0)
        yield Piece(index, reason="stop")
