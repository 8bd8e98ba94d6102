"""Conversation: turns, steps and generators.

A turn goes through the steps of the session in order: `history, persona, rag, generate, proactive`. A step changes the
turn and may yield events, which reach the person at once; the text of an answer is a stream of `Text` events.
A generator writes the answer: a Luna model, the extractive one, an endpoint. It gets messages, never a string with
control tokens: only the dialogue template makes those.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .data import Message

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session
    from luna_kernel.plugins import Plugins


@dataclass(frozen=True)
class Passage:
    """A chunk that was found for a question, under the number by which an answer cites it."""

    number: int
    source: str
    """The document's path or name."""
    title: str
    heading: str
    text: str
    start: int
    end: int
    """Character offsets into the document: `document.text[start:end] == text`."""
    score: float
    """Calibrated relevance, 0 to 1."""
    line: int = 0
    """Line of `start` in the document, from 1; 0 if unknown."""
    metadata: dict[str, Any] = field(default_factory=dict)
    page: int = 0
    """Page of `start`, from 1; 0 where the document has no pages."""
    page_starts: tuple[int, ...] = ()
    """Offsets into the document, behind `start`, at which further pages begin."""

    def page_at(self, offset: int) -> int:
        """The page of a character of the document, by its offset; 0 where there are no pages."""
        return self.page and self.page + sum(start <= offset for start in self.page_starts)


@dataclass(frozen=True)
class Citation:
    """What an answer rests on: a passage, and the very characters quoted or used."""

    number: int
    source: str
    title: str
    start: int
    end: int
    text: str
    line: int = 0
    page: int = 0


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. `temperature=0` takes the likeliest."""

    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.05
    repetition_penalty: float = 1.1
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Text:
    """A piece of the answer, whole characters only."""

    text: str


@dataclass(frozen=True)
class Thinking:
    """A piece of the thinking part."""

    text: str


class Painted(str):
    """Text for people with colours beside it: on a pipe, or under NO_COLOR, it is the plain text that it is.

    A command may return it, and a `Notice` may carry it.
    """

    __slots__ = ("spans",)
    spans: tuple[tuple[int, int, str], ...]
    """(start, end, style): offsets into the text, and a style of rich such as `bold` or `black on #ffcc00`."""

    def __new__(cls, text: str, spans: Sequence[tuple[int, int, str]] = ()) -> Painted:
        """The text with its spans."""
        made = super().__new__(cls, text)
        made.spans = tuple(spans)
        return made


@dataclass(frozen=True)
class Notice:
    """A remark to the person that is not part of the answer."""

    text: str


Event = Text | Thinking | Notice


@dataclass
class Turn:
    """One question on its way to an answer."""

    query: str
    system: list[str] = field(default_factory=list)
    """Parts of the system message, in order; personas and the like add to it."""
    history: list[Message] = field(default_factory=list)
    """Earlier messages that fit; filled by the history step."""
    passages: list[Passage] = field(default_factory=list)
    searched: bool = False
    """Whether documents were searched for this turn, found or not."""
    sampling: Sampling = field(default_factory=Sampling)
    think: bool = False
    """Whether the person wants the model to think first, if it knows how."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """What the model is told besides the text, by name: a word, weights by name or numbers (`{"domain": "saude"}`); see
    `luna_kernel.data.conditions`. A copy of the session's; a step may change it before the answer."""
    answer: str = ""
    thinking: str = ""
    citations: list[Citation] = field(default_factory=list)
    stop_reason: str = ""
    """`end`, `length`, `stop_string`, `interrupted`, `no_answer`."""
    generator: str = ""
    """Name of the generator that answered."""
    usage: dict[str, int] = field(default_factory=dict)
    """`prompt_tokens` (of which `cached_tokens` were read in an earlier turn), `completion_tokens`."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds: `first_token`, `total`, and each step's under its name (`generate`); `retrieve` from the rag step."""
    prompt_ids: list[int] = field(default_factory=list)
    """The ids that a Luna model was given for the answer; of this process only, no store keeps them."""
    answer_ids: list[int] = field(default_factory=list)
    """The ids that it answered with, the end token left out."""
    notes: dict[str, Any] = field(default_factory=dict)
    """JSON-able facts that steps leave for `/stats` and the store, under the step's name; `replaces` holds the query
    and the answer whose place this turn took."""
    stored: int | None = field(default=None, compare=False)
    """Its row in the store; None where it is not kept."""
    created: float = field(default=0.0, compare=False)
    """When it was kept, seconds since 1970."""


class Step(ABC):
    """One stage of a turn. The constructor gets its validated config (or None)."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def open(self, session: Session) -> None:  # noqa: B027  optional
        """Called once when the session opens."""

    @abstractmethod
    def run(self, turn: Turn, session: Session) -> Iterator[Event]:
        """Change `turn`, yielding what the person should see at once. Steps that show nothing `yield from ()`."""

    def search(self, query: str, k: int) -> list[Passage]:
        """The best `k` or fewer passages about `query`, best first, of the documents that this step holds, if any."""
        return []

    def describe(self) -> str | None:
        """One line for the head of the conversation: what this step works with; None says nothing."""
        return None

    def close(self) -> None:  # noqa: B027  optional
        """Called once when the session closes."""


class Generator(ABC):
    """Writes answers."""

    name: str = ""
    grounds_itself: bool = False
    """Whether it can be trusted to answer from passages put into its prompt. A tiny model cannot: then a turn with
    passages is answered by the extractive generator."""

    @classmethod
    def open(cls, model: str | None, *, plugins: Plugins, device: str = "cpu", config: Any = None) -> Generator:
        """Make the generator for `luna run --generator NAME --model MODEL`; the default needs no model.

        Args:
            model: what the person named, or None.
            plugins: those that are on.
            device: where to compute, `cpu` or `cuda:0`.
            config: its validated configuration, from the table `[plugin.NAME]` of the settings; None without one.
        """
        return cls()

    @abstractmethod
    def generate(self, turn: Turn, stop: Callable[[], bool]) -> Iterator[Event]:
        """Stream the answer to `turn` (its system, history, passages, query and sampling) and fill its `stop_reason`
        and `usage`. Ask `stop()` at least once per token and end with `stop_reason="interrupted"` when it is true."""

    @property
    def conditions(self) -> Mapping[str, Sequence[str]]:
        """The conditions that it reads, each with the names of its dimensions."""
        return {}

    def describe(self) -> str | None:
        """One line for the head of the conversation, such as where messages are sent; None says nothing."""
        return None

    def close(self) -> None:  # noqa: B027  optional
        """Called once when the session closes."""

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens that `messages` cost in this generator's prompt; the default estimates from characters."""
        return sum(len(m.content) // 3 + 4 for m in messages)

    @property
    def context_length(self) -> int:
        """How many tokens prompt and answer may have together."""
        return 1 << 20


class Command(ABC):
    """A `/name` in the chat. The docstring's first line is its help unless the catalogue has `command.<name>`."""

    @abstractmethod
    def run(self, argument: str, session: Session) -> str | None:
        """Do it, and return what to show, if anything."""

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Completions of its argument."""
        return []
