"""The kernel's own steps: earlier turns, and letting a generator answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from luna_kernel.base.messages import catalogue
from luna_kernel.chat.small_talk import Talk, kind_of_talk
from luna_kernel.contracts.chat import Citation, Event, Generator, Notice, Passage, Step, Text, Turn
from luna_kernel.contracts.data import Message

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


class HistoryConfig(BaseModel):
    """How much of the conversation a question is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_turns: int | None = Field(default=None, ge=0)
    """Earlier turns at most; None: as many as fit."""
    share: float = Field(default=0.75, gt=0, le=1)
    """Share of the prompt's room for the history; the rest is left to persona and passages."""
    thoughts: bool = False
    """Whether the model is shown what it thought before its earlier answers."""


class HistoryStep(Step):
    """Puts the earlier turns that fit into `turn.history`, the newest first served."""

    config: HistoryConfig

    def run(self, turn: Turn, session: Session) -> Iterator[Event]:
        """Fill `turn.history`."""
        generator = session.generator
        room = generator.context_length - turn.sampling.max_tokens
        asked = [Message("system", part) for part in turn.system] + [Message("user", turn.query)]
        budget = int((room - generator.count_tokens(asked)) * self.config.share)
        chosen: list[Message] = []
        earlier = [past for past in session.turns if past.answer]
        if self.config.max_turns is not None:
            earlier = earlier[-self.config.max_turns :] if self.config.max_turns else []
        for past in reversed(earlier):
            thought = past.thinking or None if self.config.thoughts else None
            pair = [Message("user", past.query), Message("assistant", past.answer, thought)]
            if generator.count_tokens(pair + chosen) > budget:
                break
            chosen = pair + chosen
        turn.history = chosen
        turn.notes["history"] = {"turns": len(chosen) // 2, "left_out": len(session.turns) - len(chosen) // 2}
        yield from ()


def no_answer() -> str:
    """What is said where documents were searched and nobody knows."""
    return t("answer.none")


class GenerateConfig(BaseModel):
    """Who answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quote: str = Field(default="auto", pattern="^(auto|always|never)$")
    """`auto`: quote the passages where the generator does not ground itself; `always`; `never`."""


class GenerateStep(Step):
    """Lets a generator answer: the model, or the extractive one where passages were found.

    With documents switched on a tiny model must not make up what they say. So: small talk (greetings, thanks, questions
    to Luna about herself) goes to the model, and so does what somebody says of themselves if no passage fits it; a
    question with relevant passages is answered from them; a question about content for which nothing relevant was
    found gets the honest "not in the documents" (`stop_reason="no_answer"`).
    A generator that grounds itself gets every question, passages and all.
    """

    config: GenerateConfig

    def open(self, session: Session) -> None:
        """Make the extractive generator ready."""
        self._extractive: Generator = session.plugins.registry.get("generator", "extractive").load()()

    def run(self, turn: Turn, session: Session) -> Iterator[Event]:
        """Stream the answer."""
        generator = self.choose(turn, session)
        if generator is None:
            turn.generator, turn.stop_reason = self._extractive.name, "no_answer"
            yield Text(no_answer())
            return
        turn.generator = generator.name
        said = []
        for event in generator.generate(turn, lambda: session.stopped):
            if isinstance(event, Text):
                said.append(event.text)
            yield event
        if turn.passages and not turn.citations:
            yield from _cite("".join(said), turn)

    def choose(self, turn: Turn, session: Session) -> Generator | None:
        """The generator for this turn; None where nobody knows."""
        own = session.generator
        quote = self.config.quote
        if quote == "never" or (quote == "auto" and own.grounds_itself) or own.name == self._extractive.name:
            return own
        talk = kind_of_talk(turn.query)
        if talk is Talk.SMALL or (talk is Talk.PERSONAL and not turn.passages):
            turn.passages = []
            return own
        if turn.passages:
            return self._extractive
        return None if turn.searched else own


_NUMBER = re.compile(r"\[(\d{1,3})\]")


def _cite(answer: str, turn: Turn) -> Iterator[Event]:
    """Take the numbers that a model wrote for citations, as far as it was given passages under them.

    A number that it was not given, read out of a document perhaps, becomes no citation; the person is told.
    """
    given = {passage.number: passage for passage in turn.passages}
    numbers = list(dict.fromkeys(int(number) for number in _NUMBER.findall(answer)))
    turn.citations = [_citation(given[number]) for number in numbers if number in given]
    unknown = [number for number in numbers if number not in given]
    if unknown:
        turn.notes["generate"] = {"unknown_citations": unknown}
        yield Notice(t("citation.unknown", numbers=", ".join(f"[{number}]" for number in unknown)))


def _citation(passage: Passage) -> Citation:
    place = (passage.start, passage.end, passage.text, passage.line, passage.page)
    return Citation(passage.number, passage.source, passage.title, *place)
