"""Luna for programs: open a model, ask, stream; with documents and personas.

    from luna_kernel import Luna

    with Luna(plugins="moc,ssm,rag", docs="docs/exemplos") as luna:
        turn = luna.ask("Quantos livros posso levar por vez?")
        print(turn.answer, turn.citations)
        for piece in luna.stream("Quem é você?"):
            print(piece, end="", flush=True)

It is the conversation that `luna run` has, made the same way, without a terminal: what the command line would say on
stderr goes to the log, and nothing is kept on the disk unless `session` or `save` asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.logging import get_logger
from luna_kernel.base.messages import catalogue
from luna_kernel.base.settings import Settings
from luna_kernel.contracts.chat import Event, Sampling, Text, Turn

from .app import App
from .chat_options import SETTINGS_FIELDS, ChatRequest
from .opening import open_session

t = catalogue(__package__)

AnyPath = str | os.PathLike[str]


class _Quiet(App):
    """Says to the log what the command line says to people."""

    def say(self, text: str) -> None:
        """A remark."""
        get_logger(__name__).info("remark", text=text)


class Luna:
    """A conversation.

    Args:
        model: name or folder of a model; None for the demo model, which the first time takes a minute to make.
        plugins: as `--plugins`; None for what the model needs and the settings say.
        docs: folders or files of documents to answer from.
        persona: name or file of the persona.
        system: an instruction that the model is given with every question.
        generator: who answers: `luna`, `extractive`, or one of a plugin's.
        steps: names of the steps of an answer; None for the usual ones.
        session: name of a conversation to go on with, or to begin; it is kept.
        save: keep the conversation on this computer.
        settings: others of `luna run`: temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, seed, device,
            threads, cache_limit, low_memory, experts_per_token.

    Raises:
        LunaError: what `luna run` would say.
    """

    def __init__(
        self,
        model: AnyPath | None = None,
        *,
        plugins: str | None = None,
        docs: AnyPath | Sequence[AnyPath] = (),
        persona: str | None = None,
        system: str = "",
        generator: str | None = None,
        steps: Sequence[str] | None = None,
        session: str | None = None,
        save: bool = False,
        **settings: Any,
    ) -> None:
        unknown = sorted(set(settings) - set(SETTINGS_FIELDS))
        if unknown:
            raise UsageError(t("api.unknown", names=", ".join(unknown), known=", ".join(SETTINGS_FIELDS)))
        paths = [docs] if isinstance(docs, str | os.PathLike) else docs
        given = {"model": None if model is None else os.fspath(model), "persona": persona, **settings}
        request = ChatRequest(
            Settings(**{name: value for name, value in given.items() if value is not None}),
            docs=tuple(Path(path) for path in paths),
            context=system,
            generator=generator,
            steps=None if steps is None else tuple(steps),
            session=session,
            save=save or session is not None,
        )
        self.session = open_session(_Quiet(selection=plugins), request)
        """The conversation itself, for what this class does not offer; see `luna_kernel.chat.session`."""

    def ask(self, query: str, *, persona: str | None = None, think: bool = False, **sampling: Any) -> Turn:
        """Ask, and wait for the whole answer.

        Args:
            query: the question.
            persona: who speaks in this answer only.
            think: let the model think first, if it knows how; `turn.thinking` has it.
            sampling: fields of `luna_kernel.contracts.chat.Sampling` for this answer only.

        Returns:
            The turn: `answer`, `citations`, `passages`, `stop_reason`, `usage`, `timings`, ….

        Raises:
            LunaError: the question is empty or too long, a name or a value is wrong, or a step failed.
        """
        for _ in self.events(query, persona=persona, think=think, **sampling):
            pass
        return self.session.turns[-1]

    def stream(self, query: str, *, persona: str | None = None, **sampling: Any) -> Iterator[str]:
        """Ask, and give the answer's text as it comes; see `ask`. Afterwards `turns[-1]` has the rest."""
        for event in self.events(query, persona=persona, **sampling):
            if isinstance(event, Text):
                yield event.text

    def events(
        self, query: str, *, persona: str | None = None, think: bool = False, **sampling: Any
    ) -> Iterator[Event]:
        """Ask, and give everything as it comes: text, thinking, remarks."""
        common = self.session.options
        if persona is not None and self.session.step("persona") is None:
            self.session.plugins.registry.get("step", "persona", where="persona")
        self.session.options = replace(
            common,
            sampling=_changed(common.sampling, sampling),
            persona=common.persona if persona is None else persona,
            show_thinking=think or common.show_thinking,
        )
        try:
            yield from self.session.ask(query)
        finally:
            self.session.options = common

    def search(self, query: str, k: int = 5) -> list[Any]:
        """The passages of the documents that are about `query`, best first: `luna_kernel.contracts.chat.Passage`."""
        return self.session.search(query, k)

    @property
    def turns(self) -> list[Turn]:
        """The conversation so far."""
        return self.session.turns

    def remember(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Begin with a conversation that was had elsewhere, in place of the one so far.

        Args:
            messages: `{"role": "system" | "user" | "assistant", "content": …}`; questions and answers in turn. The
                system messages become the instruction that goes with every question.

        Raises:
            UsageError: another role, or questions and answers do not alternate.
        """
        system = [item["content"] for item in messages if item["role"] == "system"]
        said = [item for item in messages if item["role"] != "system"]
        roles = [item["role"] for item in said]
        if len(said) % 2 or roles != ["user", "assistant"] * (len(said) // 2):
            raise UsageError(t("api.roles", roles=", ".join(roles)[:200]))
        self.session.clear()
        if system:
            self.session.options.context = "\n\n".join(system)
        for question, answer in zip(said[::2], said[1::2], strict=True):
            self.session.turns.append(Turn(question["content"], answer=answer["content"], stop_reason="end"))

    def clear(self) -> None:
        """Begin a new conversation."""
        self.session.clear()

    def stop(self) -> None:
        """Stop the answer that is being given; from any thread."""
        self.session.stop()

    def close(self) -> None:
        """Close model, documents and store."""
        self.session.close()

    def __enter__(self) -> Luna:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _changed(sampling: Sampling, given: Mapping[str, Any]) -> Sampling:
    """`sampling` with the given fields, checked."""
    from luna_kernel.chat.answer_commands import changed

    stop = given.get("stop")
    if stop is not None:
        sampling = replace(sampling, stop=(stop,) if isinstance(stop, str) else tuple(stop))
    for name, value in given.items():
        if name != "stop":
            sampling = changed(sampling, name, value)
    return sampling
