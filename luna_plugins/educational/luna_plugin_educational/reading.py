"""From a turn of the conversation to the ids that the model read and gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.contracts.chat import Turn
from luna_kernel.contracts.data import Message

if TYPE_CHECKING:
    from torch import Tensor

    from luna_kernel.chat.session import Session
    from luna_kernel.model.decoder import Decoder

    from .tracing import Trace

t = catalogue(__package__)


@dataclass(frozen=True)
class Reading:
    """A turn that the model answered."""

    generator: LunaGenerator
    turn: Turn
    number: int
    """From 1."""
    prompt: list[int]
    answer: list[int]
    rebuilt: bool
    """The ids were made again from the text: the turn was answered in another process."""

    @property
    def model(self) -> Decoder:
        """The model."""
        model: Decoder = self.generator.model
        return model

    def condition(self) -> dict[str, Tensor]:
        """The turn's condition vectors, (1, C)."""
        weight = self.model.embedding.weight
        told = self.turn.conditions.items()
        return {name: weight.new_tensor([self.generator.condition_vector(name, value)]) for name, value in told}

    def trace(self, attention_of: int | None = None) -> Trace:
        """Prompt and answer, read once more."""
        from .tracing import trace

        ids = [*self.prompt, *self.answer]
        return trace(self.model, ids, condition=self.condition(), attention_of=attention_of)


def luna_generator(session: Session) -> LunaGenerator:
    """The conversation's model.

    Raises:
        UsageError: its generator is no Luna model, whose inside can be looked at.
    """
    if not isinstance(session.generator, LunaGenerator):
        raise UsageError(t("no_model", name=session.generator.name or "-"), hint=t("no_model.hint"))
    return session.generator


def turn_of(session: Session, number: str) -> tuple[int, Turn]:
    """The turn of that number, from 1; the last for an empty one.

    Raises:
        UsageError: there is no such turn.
    """
    if not session.turns:
        raise UsageError(t("no_turns"), hint=t("no_turns.hint"))
    place = int(number) if number.isdigit() else len(session.turns) if not number else 0
    if not 1 <= place <= len(session.turns):
        raise UsageError(t("no_turn", number=number[:20], count=len(session.turns)))
    return place, session.turns[place - 1]


def reading_of(session: Session, number: str = "") -> Reading | None:
    """The turn of that number as the model read it; None where it did not write the answer.

    Raises:
        UsageError: see `turn_of` and `luna_generator`.
    """
    place, turn = turn_of(session, number)
    generator = luna_generator(session)
    return reading(generator, turn, place)


def reading(generator: LunaGenerator, turn: Turn, number: int) -> Reading | None:
    """`turn` as the model read it; None where it did not write the answer."""
    if turn.prompt_ids:
        return Reading(generator, turn, number, turn.prompt_ids, turn.answer_ids, rebuilt=False)
    if turn.generator != generator.name or not turn.answer:
        return None
    messages: list[Any] = [Message("user", turn.query)]
    prompt = generator.template.render(messages, answer=True)[0]
    answer = generator.tokenizer.encode(turn.answer)
    room = max(1, generator.context_length - len(prompt))
    return Reading(generator, turn, number, prompt, answer[:room], rebuilt=True)
