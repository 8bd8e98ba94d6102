"""`/persona`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Command

from .files import find_persona, known_names
from .step import PersonaStep

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)

_NOBODY = ("none", "nenhuma", "off")


class PersonaCommand(Command):
    """List the personas, or speak as one: /persona NAME."""

    def run(self, argument: str, session: Session) -> str:
        """Choose, or list."""
        step = session.step("persona")
        if not isinstance(step, PersonaStep):
            raise UsageError(t("persona.no_step"), hint=t("persona.no_step.hint"))
        if not argument:
            return self._list(session)
        step.choose(None if argument.lower() in _NOBODY else argument, session)
        return step.describe() or t("persona.nobody")

    def _list(self, session: Session) -> str:
        names = known_names(session.plugins.registry)
        width = max(map(len, names), default=0)
        lines = []
        for name in names:
            try:
                text = find_persona(name, session.plugins.registry).description
            except LunaError as error:  # one's own file may be wrong; the list shows it and goes on
                text = f"! {error.text.splitlines()[0]}"
            lines.append(f"{'*' if name == session.options.persona else ' '} {name:<{width}}  {text}".rstrip())
        return "\n".join([t("persona.list"), *lines, t("persona.list.hint")])

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Names of personas."""
        return [name for name in (*known_names(session.plugins.registry), "none") if name.startswith(prefix)]
