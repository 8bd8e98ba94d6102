"""The kernel's own generators: a Luna model, and quoting the passages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.prompt import fit_messages
from luna_kernel.chat.streaming import AnswerText
from luna_kernel.contracts.chat import Event, Generator, Text, Thinking, Turn
from luna_kernel.contracts.data import Message

if TYPE_CHECKING:
    from luna_kernel.model.checkpoint import OpenedModel
    from luna_kernel.model.decoding_threads import DecodingThreads
    from luna_kernel.model.state import Snapshot
    from luna_kernel.plugins import Plugins

t = catalogue(__package__)

_STOP_REASONS = {"end": "end", "length": "length", "context": "length", "stopped": "interrupted"}
"""What the model room calls the end of a generation, and what a turn calls it."""
_REMEMBERED = 2000
"""Messages whose ids are remembered: each turn's prompt holds all the earlier ones again."""
_NEAR = 16
_MOMENTS = 4
"""Earlier states that are kept, so many turns may be taken back without reading the conversation again."""


class LunaGenerator(Generator):
    """A Luna model that answers in its dialogue template.

    The decode state (KV cache, SSM state) is kept between turns: when the next prompt begins with what the model has
    seen, under the same conditions, only the rest is read. An answer that is made anew, or to a question that was
    changed, goes on from the moment before the question. Control ids come from the template alone.

    Args:
        opened: the model with its tokenizer and manifest.
        name: how the answer's `generator` is called.
    """

    name = "luna"

    def __init__(self, opened: OpenedModel) -> None:
        from luna_kernel.data.conditions import ConditionSpace
        from luna_kernel.data.dialogue import DialogueTemplate

        if opened.tokenizer is None:
            raise UsageError(t("model.no_tokenizer"), hint=t("model.no_tokenizer.hint"))
        self.model = opened.model
        self.tokenizer = opened.tokenizer
        self.template = DialogueTemplate(opened.tokenizer, remember=_REMEMBERED)
        chat = opened.manifest.chat
        self.grounds_itself = bool(chat.get("grounds_itself", False))
        self.can_think = bool(chat.get("thinking", False))
        self._max_positions = int(self.model.dims.max_positions)
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.threads: DecodingThreads | None = None
        """How many suit its passes; None: as many as torch has. See `choose_threads`."""
        self._state: Any = None
        self._seen: list[int] = []
        """The ids that `_state` has read."""
        self._moments: list[_Moment] = []
        """Before what was asked, the newest at the end, then after the question: where answers are made anew from."""
        known = {**self.model.condition_names, **opened.manifest.conditions}
        self._space = ConditionSpace(self.model.conditions, known)
        self._told: dict[str, list[float]] = {}
        """The condition vectors that `_state` was made under."""

    @classmethod
    def open(cls, model: str | None, *, plugins: Plugins, device: str = "cpu", config: Any = None) -> LunaGenerator:
        """Open the model folder `model`."""
        from luna_kernel.model.checkpoint import open_model

        if model is None:
            raise UsageError(t("model.none"), hint=t("model.none.hint"))
        return cls(open_model(Path(model), selection=str(plugins.selection), device=device))

    def choose_threads(self) -> None:
        """Find out how many threads of the processor it is fastest with; takes a few tenths of a second."""
        from luna_kernel.model.decoding_threads import DecodingThreads

        self.threads = DecodingThreads(self.model)

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._max_positions

    @property
    def conditions(self) -> Mapping[str, Sequence[str]]:
        """What the model reads, with the names that it was trained with."""
        return {name: self._space.names.get(name, ()) for name in self._space.widths}

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens that `messages` cost in the prompt."""
        return self.template.count(messages)

    def generate(self, turn: Turn, stop: Callable[[], bool]) -> Iterator[Event]:
        """Stream the thinking part, if it was asked for and the model knows how, and the answer."""
        self._tell(turn)
        messages, left_out = self.fit(turn)
        if left_out:
            turn.notes["prompt"] = {"messages_left_out": left_out}
        thinks = turn.think and self.can_think
        prompt, _ = self.template.render(messages, answer="thinking" if thinks else True)
        before: int | None = len(self.template.render(messages[:-1])[0])
        turn.usage = {"prompt_tokens": len(prompt), "cached_tokens": 0, "completion_tokens": 0}
        if thinks:
            thought: list[int] = []
            for piece in self._speak(turn, prompt, stop, thought, before):
                yield Thinking(piece)
            if turn.stop_reason != "end":
                return
            closing, _ = self.template.render([], answer=True)
            prompt = [*prompt, *thought, self.template.end_id, *closing]
            before = None
        for piece in self._speak(turn, prompt, stop, [], before):
            yield Text(piece)

    def fit(self, turn: Turn) -> tuple[list[Message], int]:
        """The messages of the prompt and how many earlier ones had to be left out for it to fit.

        Raises:
            UsageError: the question alone is longer than the model can read.
        """
        return fit_messages(self, turn)

    def _speak(
        self, turn: Turn, prompt: list[int], stop: Callable[[], bool], spoken: list[int], before: int | None
    ) -> Iterator[str]:
        """Generate one turn of speech after `prompt`; `spoken` gets its ids, `turn` its reason to stop.

        The moments when the model has read the first `before` tokens, all but the question, and when it has read the
        question too are kept; None: none is.
        """
        from luna_kernel.model.generation import generate
        from luna_kernel.model.sampling_config import Sampling

        text = AnswerText(self.tokenizer.stream(), turn.sampling.stop)
        turn.prompt_ids, turn.answer_ids = list(prompt), []
        state, rest, logits = self._continue(prompt)
        read = len(prompt) - len(rest)
        turn.usage["cached_tokens"] += read
        pause = (before or 0) - read
        if 0 <= pause < _NEAR and read:  # a pass of its own for so few tokens would cost more than reading them twice
            self._keep_moment(prompt[:read])
        run = generate(
            self.model,
            rest,
            Sampling(**{name: getattr(turn.sampling, name) for name in Sampling.model_fields}),
            end_ids=self.template.end_ids,
            max_tokens=turn.sampling.max_tokens,
            should_stop=stop,
            state=state,
            read_ids=prompt[:read],
            condition=self._condition(),
            pause=pause if pause >= _NEAR else 0,
            at_pause=lambda: self._keep_moment(prompt[:before]),
            after_prompt=(lambda logits: self._keep_moment(prompt, logits)) if before is not None else None,
            first_logits=logits,
            threads=self.threads,
        )
        try:
            for id_ in run:
                turn.usage["completion_tokens"] += 1
                turn.answer_ids.append(id_)
                piece = text.push(id_)
                if piece:
                    yield piece
                if text.stopped:
                    break
        finally:
            spoken += run.tokens
            # The last id is given before the model reads it, so the state itself says how many it has read.
            self._seen = [*prompt, *run.tokens][: state.length]
        rest_of_text = text.finish()
        if rest_of_text:
            yield rest_of_text
        turn.stop_reason = "stop_string" if text.stopped else _STOP_REASONS[run.finish_reason or "stopped"]

    @property
    def state(self) -> Any:
        """The decode state of the conversation, as the last answer left it; None before the first."""
        return self._state

    def condition_vector(self, name: str, value: Any) -> list[float]:
        """A condition of a turn as the model reads it; see `_tell`."""
        return self._space.vector(name, value)

    # --- conditions ----------------------------------------------------------------------------------------------

    def _tell(self, turn: Turn) -> None:
        """Take up the turn's conditions; what was read under others does not count as read.

        Raises:
            UsageError: the model does not read one of them, or has no such name in it.
        """
        told = {name: self._space.vector(name, value) for name, value in turn.conditions.items()}
        if told != self._told:
            self._told, self._seen, self._moments = told, [], []

    def _condition(self) -> dict[str, Any]:
        """The condition vectors (1, C)."""
        weight = self.model.embedding.weight
        return {name: weight.new_tensor([vector]) for name, vector in self._told.items()}

    # --- decode state --------------------------------------------------------------------------------------------

    def _keep_moment(self, read: list[int], logits: Any = None) -> None:
        """Remember the state as it is after `read`, unless it is remembered already."""
        if not self._moments or self._moments[-1].read != read:
            earlier = [moment for moment in self._moments if moment.logits is None]
            kept = earlier[1 - _MOMENTS :] if logits is None else earlier
            self._moments = [*kept, _Moment(read, self._state.snapshot(), logits)]

    def _continue(self, prompt: list[int]) -> tuple[Any, list[int], Any]:
        """A decode state, the ids of `prompt` that it has not read yet, and if there are none the logits after them."""
        seen, self._seen = self._seen, []
        state = self._state
        if state is not None and _begins(prompt, seen):
            return state, prompt[len(seen) :], None
        while state is not None and self._moments:  # a question was changed, or its answer is made anew
            moment = self._moments[-1]
            if _begins(prompt, moment.read) or (moment.logits is not None and prompt == moment.read):
                state.restore(moment.state)
                rest = prompt[len(moment.read) :]
                return state, rest, None if rest else moment.logits
            self._moments.pop()
        self._state = self.model.make_state(1, self._max_positions)
        self._moments = []
        return self._state, prompt, None


@dataclass(frozen=True)
class _Moment:
    """A state to come back to."""

    read: list[int]
    """The ids that it has read."""
    state: Snapshot
    logits: Any
    """(1, V) after the last of them, at the end of a prompt; else None."""


def _begins(prompt: list[int], seen: list[int]) -> bool:
    """Whether `prompt` goes on where `seen` ends."""
    return 0 < len(seen) < len(prompt) and prompt[: len(seen)] == seen


class ExtractiveGenerator(Generator):
    """Answers with the sentences of the passages that fit the question best, each with the number of its passage.

    It needs no model and makes nothing up: every quoted character is in the document at the offsets of its citation.
    """

    name = "extractive"
    grounds_itself = True

    def generate(self, turn: Turn, stop: Callable[[], bool]) -> Iterator[Event]:
        """Stream the quoted sentences word by word, and leave their citations in the turn."""
        from luna_kernel.chat.extract import best_sentences

        quotes = best_sentences(turn.query, turn.passages)
        turn.usage = {"prompt_tokens": 0, "completion_tokens": 0}
        if not quotes:
            turn.stop_reason = "no_answer"
            yield Text(t("answer.none" if turn.searched else "answer.only_quotes"))
            return
        turn.citations = quotes
        answer = " ".join(f"{' '.join(quote.text.split())} [{quote.number}]" for quote in quotes)
        for piece in re.findall(r"\S+\s*", answer):
            if stop():
                turn.stop_reason = "interrupted"
                return
            yield Text(piece)
        turn.stop_reason = "end"
