"""The chat step: the persona's text joins the system message, its sampling what nobody else has set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Event, Sampling, Step, Turn
from luna_kernel.contracts.personas import Persona

from .config import PersonaStepConfig
from .files import find_persona

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


class PersonaStep(Step):
    """Speaks as `session.options.persona`."""

    config: PersonaStepConfig

    def __init__(self, config: PersonaStepConfig | None = None) -> None:
        super().__init__(config or PersonaStepConfig())
        self.persona: Persona | None = None
        """The one that speaks now."""
        self._named: str | None = None

    def open(self, session: Session) -> None:
        """Find the persona, so that a wrong name is said at once.

        Raises:
            UsageError: see `find_persona`.
        """
        if session.options.persona is None:
            session.options.persona = self.config.default
        self.choose(session.options.persona, session)

    def choose(self, name: str | None, session: Session) -> None:
        """Speak as the persona `name` from now on; None: as nobody in particular.

        Raises:
            UsageError: see `find_persona`; nothing has changed then.
        """
        self.persona = None if name is None else find_persona(name, session.plugins.registry)
        self._named = session.options.persona = name

    def describe(self) -> str | None:
        """Title and greeting."""
        if self.persona is None:
            return None
        return "\n".join(filter(None, [t("persona.describe", title=self.persona.title), self.persona.greeting]))

    def run(self, turn: Turn, session: Session) -> Iterator[Event]:
        """Add the persona's text and sampling to the turn."""
        if session.options.persona != self._named:
            self.choose(session.options.persona, session)
        if self.persona is not None:
            if self.persona.system:
                turn.system.append(self.persona.system)
            turn.sampling = speaking(self.persona, turn.sampling)
            turn.notes["persona"] = {"name": self.persona.name}
        yield from ()


def speaking(persona: Persona, sampling: Sampling) -> Sampling:
    """`sampling` with the persona's changes where it is still the kernel's default: who chose otherwise wins."""
    default = Sampling()
    free = {
        name: value for name, value in persona.sampling.items() if getattr(sampling, name) == getattr(default, name)
    }
    return replace(persona, sampling=free).apply(sampling)
