"""The step `persona`: who speaks in this conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Event, Sampling, Step, Turn
from luna_kernel.contracts.personas import Persona

from . import automatic, style
from .config import PersonaStepConfig
from .finding import AUTO, find_persona

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


class PersonaStep(Step):
    """Adds the persona's text to the system message and its changes to the sampling that nobody set.

    Who speaks stands in `session.options.persona`: a name, a file, `off`, or None for the configured default. A
    file is read when it is chosen, not at every turn: a slip in an edited file spoils no conversation.
    """

    config: PersonaStepConfig

    def __init__(self, config: PersonaStepConfig | None = None) -> None:
        super().__init__(config or PersonaStepConfig())
        self._asked: str | None = None
        self.persona: Persona | None = None
        """Who speaks."""
        self.style: dict[str, float] = {}
        """Sliders that `/style` set; they go before the persona's."""

    def open(self, session: Session) -> None:
        """Find the persona, so that a wrong name is said before the first question.

        Raises:
            UsageError: see `find_persona`.
        """
        asked = session.options.persona or self.config.default
        if asked:
            self.choose(asked, session)

    def choose(self, asked: str, session: Session) -> Persona | None:
        """Let `asked` speak from now on; a file is read again. Returns the persona, None for `off`.

        Raises:
            UsageError: see `find_persona`; then everything stays as it was.
        """
        self.persona = None if asked == AUTO else find_persona(asked, session.plugins.registry)
        self._asked = session.options.persona = asked
        return self.persona

    def run(self, turn: Turn, session: Session) -> Iterator[Event]:
        """Add to `turn.system`, `turn.sampling` and `turn.notes`."""
        asked = session.options.persona
        if asked != self._asked:  # somebody set the option without `/persona`
            if asked:
                self.choose(asked, session)
            else:
                self._asked = self.persona = None
        note: dict[str, Any] = {}
        if asked == AUTO:
            former = session.turns[-1].notes.get("persona", {}).get("name") if session.turns else None
            choice = automatic.choose(turn.query, former)
            self.persona = find_persona(choice.persona, session.plugins.registry)
            note["reason"] = choice.reason
        persona = self.persona
        if persona is not None or self.style:
            note |= self._speak(turn, persona)
            turn.notes["persona"] = note
        yield from ()

    def _speak(self, turn: Turn, persona: Persona | None) -> dict[str, Any]:
        """Put persona and style into the turn; returns what was done."""
        sliders = {**(persona.style if persona is not None else {}), **self.style}
        turn.system += [text for text in (persona.system if persona else "", style.instruction(sliders)) if text]
        wanted = {**style.sampling(sliders), **(persona.sampling if persona else {}), **style.sampling(self.style)}
        changes = free_changes(wanted, turn.sampling)
        turn.sampling = replace(turn.sampling, **changes)
        note: dict[str, Any] = {"name": persona.name if persona else None, "sampling": changes}
        return note | ({"style": sliders} if sliders else {})

    def describe(self) -> str | None:
        """Who speaks, and the greeting."""
        return introduce(self.persona) if self.persona is not None else None


def free_changes(wanted: Mapping[str, Any], sampling: Sampling) -> dict[str, Any]:
    """The wanted changes to fields that nobody set: those where `sampling` has the kernel's default.

    The session does not record who set a value. So whoever asks for the very default is not seen; but what the user
    or the model chose otherwise always stays.
    """
    untouched = {field.name for field in fields(Sampling) if getattr(sampling, field.name) == field.default}
    return {name: value for name, value in wanted.items() if name in untouched}


def introduce(persona: Persona) -> str:
    """One line: the title and the greeting."""
    line = t("persona.speaks", title=persona.title)
    return f"{line} {persona.greeting}" if persona.greeting else line
