"""A conversation: questions go in, events come out, turns are kept.

    session = Session(plugins, generator, store=SessionStore())
    for event in session.ask("Quem é você?"):
        ...
    session.close()

Each question becomes a `Turn` that goes through the session's steps in order. The list of steps is explicit and is
saved with the model; a default step whose plugin is off is left out, one that was named and is missing is an error.
"""

from __future__ import annotations

import secrets
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Command, Event, Generator, Notice, Passage, Sampling, Step, Text, Thinking, Turn

if TYPE_CHECKING:
    from luna_kernel.chat.store import SessionStore
    from luna_kernel.plugins import Plugins

t = catalogue(__package__)

DEFAULT_STEPS = ("history", "persona", "rag", "generate", "proactive", "educational")
"""A `Turn`'s way; those whose component no plugin brings are left out."""

MAX_QUERY_CHARS = 20_000
"""A longer question is refused: no model here reads as much, and the store is not a dump."""


@dataclass
class SessionOptions:
    """What steps and commands may read and change while the conversation runs."""

    sampling: Sampling = field(default_factory=Sampling)
    model: str = ""
    """Name of the model, as the store records it."""
    device: str = "cpu"
    persona: str | None = None
    """Name of the persona; the persona step reads it, `/persona` changes it."""
    docs: tuple[Path, ...] = ()
    """Folders or files of documents that the rag step indexes and searches."""
    rag: bool = True
    """Whether documents are searched; `/rag` changes it."""
    filters: tuple[str, ...] = ()
    """Further conditions that passages must meet, such as `source=*.md`; the rag step reads them."""
    show_thinking: bool = False
    educational: bool = False
    """Whether each answer is explained; the educational step reads it, `/educational` changes it."""
    show_tensors: bool = False
    """Whether the explanation shows the tensors of every layer."""
    context: str = ""
    """An opening remark of the user's about the matter, part of the system message of every turn."""
    max_query_chars: int = MAX_QUERY_CHARS


class Session:
    """One conversation.

    Args:
        plugins: the plugins that are on; steps and commands come from their registry.
        generator: who answers.
        steps: names, or nodes `{"name": …, field: …}`; None for `DEFAULT_STEPS` minus those not registered.
        store: where turns are kept; None keeps them in memory only.
        options: see `SessionOptions`.

    Raises:
        UsageError: a named step is not registered, or its configuration does not validate.
    """

    def __init__(
        self,
        plugins: Plugins,
        generator: Generator,
        *,
        steps: Sequence[str | Mapping[str, Any]] | None = None,
        store: SessionStore | None = None,
        options: SessionOptions | None = None,
    ) -> None:
        self.plugins = plugins
        self.generator = generator
        self.store = store
        self.options = options or SessionOptions()
        self.id = secrets.token_hex(16)
        self.turns: list[Turn] = []
        self.conditions: dict[str, Any] = {}
        """What the model is told of the conversation besides its text; see `set_condition`."""
        self.closing = False
        """Set by `/exit`: whoever runs the conversation ends it."""
        self.draft = ""
        """What stands at the next prompt, to be changed and sent."""
        self.collecting: list[str] | None = None
        """The lines so far of a question that `/multi` began."""
        self._next: str | None = None
        self._replacing = False
        self._name: str | None = None
        self._stop = threading.Event()
        self._busy = threading.Lock()
        self._commands: dict[str, Command] = {}
        self._steps: dict[str, Step] = {}
        for node in self._nodes(steps):
            component = plugins.registry.get("step", node["name"], where="chat.steps")
            config = component.make_config(node, where=f"chat.steps.{component.name}")
            self._steps[component.name] = component.load()(config)
        opened: list[Step] = []
        try:
            for step in self._steps.values():
                step.open(self)
                opened.append(step)
        except BaseException:
            for step in reversed(opened):
                step.close()
            raise
        plugins.tell("luna_chat_start", session=self)

    def _nodes(self, steps: Sequence[str | Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
        if steps is None:
            return [{"name": name} for name in DEFAULT_STEPS if self.plugins.registry.find("step", name)]
        nodes = [{"name": item} if isinstance(item, str) else item for item in steps]
        for node in nodes:
            if not isinstance(node.get("name"), str):
                raise UsageError(t("steps.no_name", node=dict(node)))
        names = [node["name"] for node in nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UsageError(t("steps.twice", name=", ".join(twice)))
        if "generate" not in names:
            raise UsageError(t("steps.no_generate", names=", ".join(names) or "-"))
        return nodes

    @property
    def step_names(self) -> list[str]:
        """The steps, in order."""
        return list(self._steps)

    def step(self, name: str) -> Step | None:
        """The step of that name, or None; commands use it to reach their step."""
        return self._steps.get(name)

    def search(self, query: str, k: int) -> list[Passage]:
        """What the documents of this conversation say about `query`: the best `k` or fewer passages, best first."""
        found = [passage for step in self._steps.values() for passage in step.search(query, k)]
        return sorted(found, key=lambda passage: -passage.score)[:k]

    # --- asking --------------------------------------------------------------------------------------------------

    def ask(self, query: str) -> Iterator[Event]:
        """Answer a question; the events are the answer's pieces as they come.

        When the iterator ends, or is closed, the turn is in `turns` and in the store, also a partial answer, which
        is marked `interrupted`. Only one question at a time.

        Raises:
            UsageError: the question is empty or too long.
        """
        replacing, self._replacing = self._replacing, False
        query = clean_query(query, self.options.max_query_chars)
        if not self._busy.acquire(blocking=False):
            raise ValueError("this session is answering another question")
        self._stop.clear()
        turn = Turn(query=query, sampling=self.options.sampling, think=self.options.show_thinking)
        former = self.turns[-1] if replacing and self.turns else None
        if former is not None:
            turn.notes["replaces"] = {"query": former.query, "answer": former.answer}
            if former.sampling.seed is not None and former.query == query:
                turn.sampling = replace(turn.sampling, seed=former.sampling.seed + 1)
        if self.conditions:
            turn.conditions = dict(self.conditions)
            turn.notes["conditions"] = dict(self.conditions)
        if self.options.context:
            turn.system.append(self.options.context)
        return _Answer(self._answer(turn, former), self._busy)

    def stop(self) -> None:
        """Stop the answer that is being given; from any thread or a signal handler."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether somebody asked to stop the answer."""
        return self._stop.is_set()

    def _answer(self, turn: Turn, former: Turn | None) -> Iterator[Event]:
        """Let the steps answer. `former`, the last turn, gives its place to this one as soon as this one is kept."""
        begin = time.perf_counter()
        finished = False
        if former is not None:
            self.turns.pop()
        try:
            for name, step in self._steps.items():
                if self._stop.is_set():
                    turn.stop_reason = "interrupted"
                    break
                since = time.perf_counter()
                for event in step.run(turn, self):
                    if isinstance(event, Text | Thinking) and "first_token" not in turn.timings:
                        turn.timings["first_token"] = time.perf_counter() - begin
                    if isinstance(event, Text):
                        turn.answer += event.text
                    elif isinstance(event, Thinking):
                        turn.thinking += event.text
                    yield event
                turn.timings.setdefault(name, time.perf_counter() - since)
            finished = True
        finally:
            turn.timings["total"] = time.perf_counter() - begin
            if not finished:
                turn.stop_reason = "interrupted"
            kept = finished or bool(turn.answer)
            notice = self._keep(turn) if kept else None
            if former is not None and kept:
                self._forget(former)
            elif former is not None:
                self.turns.append(former)
        if notice is not None:
            yield notice
        self.plugins.tell("luna_chat_turn_end", session=self, turn=turn)

    def _keep(self, turn: Turn) -> Notice | None:
        """Remember the turn; a store that refuses is said aloud and ends nothing."""
        self.turns.append(turn)
        if self.store is None:
            return None
        try:
            turn.stored = self.store.add_turn(
                self.id,
                turn,
                model=self.options.model,
                plugins=",".join(self.plugins.names),
                persona=self.options.persona,
            )
            if self._name is not None:
                name, self._name = self._name, None
                self.store.set_name(self.id, name)
        except LunaError as error:
            return Notice(t("store.not_kept", reason=error.text))
        return None

    def last_turn(self) -> Turn:
        """The last question with its answer.

        Raises:
            UsageError: nothing was asked yet.
        """
        if not self.turns:
            raise UsageError(t("turns.none"))
        return self.turns[-1]

    def undo(self) -> Turn:
        """Take the last question and its answer back, also out of the store; returns them.

        Raises:
            UsageError: nothing was asked yet.
        """
        turn = self.last_turn()
        self._forget(turn)
        self.turns.pop()
        return turn

    def ask_again(self, query: str | None = None) -> None:
        """Have the last question, or `query` in its place, asked next: see `take_next`.

        The new turn takes the place of the former, which it names in its notes, once it is kept.

        Raises:
            UsageError: nothing was asked yet.
        """
        last = self.last_turn()
        self._next = query or last.query
        self._replacing = True

    def take_next(self) -> str | None:
        """The question that a command wants asked now, if any; whoever runs the conversation asks it."""
        query, self._next = self._next, None
        return query

    def _forget(self, turn: Turn) -> None:
        if self.store is not None and turn.stored is not None:
            self.store.remove_turn(turn.stored)

    def set_condition(self, name: str, value: Any) -> None:
        """Tell the model a condition of the conversation from the next turn on, such as `domain` = `saude`.

        Args:
            name: of the condition.
            value: a word, weights by name, or numbers; None takes the condition away.

        Raises:
            UsageError: the generator does not read it, or has no such name in it; names the nearest.
        """
        from luna_kernel.data.conditions import read_value, unknown_condition, unknown_name

        known = self.generator.conditions
        if name not in known:
            raise unknown_condition(name, known)
        for word in () if value is None else read_value(name, value):
            if word not in known[name]:
                raise unknown_name(name, word, known[name])
        if value is None:
            self.conditions.pop(name, None)
        else:
            self.conditions[name] = value

    # --- conversation --------------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Begin a new conversation; the former stays in the store."""
        self.turns = []
        self._name = None
        self.id = secrets.token_hex(16)

    def load(self, name: str) -> int:
        """Go on with a kept conversation, found by its name or id; returns how many turns it has.

        Raises:
            UsageError: there is none of that name, or nothing is kept here.
        """
        store = self._need_store()
        found = store.find(name)
        self.turns = store.turns(found.id)
        self.id = found.id
        return len(self.turns)

    def save(self, name: str) -> None:
        """Give this conversation a name; it is kept turn by turn in any case.

        Raises:
            UsageError: see `SessionStore.set_name`; or nothing is kept here.
        """
        self._need_store().set_name(self.id, name)

    def name_when_kept(self, name: str) -> None:
        """Give the conversation its name with its first turn; until then there is nothing to name."""
        self._name = name

    def _need_store(self) -> SessionStore:
        if self.store is None:
            raise UsageError(t("store.off"), hint=t("store.off.hint"))
        return self.store

    def command(self, line: str) -> str | None:
        """Run a `/name argument` line; returns what to show.

        Raises:
            UsageError: no such command; names the nearest, and the plugin that brings it if one is known.
        """
        name, _, argument = line.strip().removeprefix("/").partition(" ")
        return self.find_command(name.lower()).run(argument.strip(), self)

    def find_command(self, name: str) -> Command:
        """The command of that name, made on first use.

        Raises:
            UsageError: there is none; names the nearest one, or the plugin that is known to bring it.
        """
        registry = self.plugins.registry
        if registry.find("command", name) is None:
            from luna_kernel.plugins.known import known_plugin
            from luna_kernel.plugins.registry import suggest

            plugin, hint = known_plugin("command", name), t("command.unknown.hint")
            if plugin is not None:
                hint = t("command.in_plugin", plugin=plugin.name, distribution=plugin.distribution)
            nearest = suggest(f"/{name}", [f"/{component.name}" for component in registry.of_kind("command")])
            raise UsageError(t("command.unknown", name=name[:40]) + nearest, hint=hint)
        if name not in self._commands:
            self._commands[name] = self.plugins.registry.get("command", name).load()()
        return self._commands[name]

    def close(self) -> None:
        """End the conversation: tell the plugins, close steps and store."""
        self.plugins.tell("luna_chat_end", session=self)
        for step in reversed(self._steps.values()):
            step.close()
        self.generator.close()
        if self.store is not None:
            self.store.close()


class _Answer:
    """The iterator over an answer's events; the session is free again when it ends, fails or is closed.

    A plain generator that is never started would not run its `finally`, and the session would stay busy.
    """

    def __init__(self, events: Iterator[Event], busy: threading.Lock) -> None:
        self._events = events
        self._busy: threading.Lock | None = busy

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        try:
            return next(self._events)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give up the rest of the answer; what came so far is kept."""
        busy, self._busy = self._busy, None
        try:
            self._events.close()  # type: ignore[attr-defined]  # a generator
        finally:
            if busy is not None:
                busy.release()

    def __del__(self) -> None:
        self.close()


def clean_query(query: str, max_chars: int = MAX_QUERY_CHARS) -> str:
    """The question as the steps see it: bounded, NFC, without half characters and surrounding blanks.

    Control tokens in it stay what they are: plain characters.

    Raises:
        UsageError: empty, or longer than `max_chars`.
    """
    if len(query) > max_chars:
        raise UsageError(t("query.too_long", limit=max_chars), hint=t("query.too_long.hint"))
    whole = query.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    whole = unicodedata.normalize("NFC", whole).strip()
    if not whole:
        raise UsageError(t("query.empty"))
    return whole
