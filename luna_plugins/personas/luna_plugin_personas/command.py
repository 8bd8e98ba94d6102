"""`/persona`: see who can speak, and choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Command

from .finding import OFF, each_persona, known_names
from .step import PersonaStep, introduce

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


class PersonaCommand(Command):
    """Show the personas, or choose one."""

    def run(self, argument: str, session: Session) -> str:
        """Choose `argument`, a name, a file or `off`; without one, list them with the active one marked.

        Raises:
            UsageError: unknown, with the nearest name and the list; or this conversation has no such step.
        """
        step = session.step("persona")
        if not isinstance(step, PersonaStep):
            raise UsageError(t("step.missing", steps=", ".join(session.step_names)), hint=t("step.missing.hint"))
        if not argument:
            return self._list(step, session)
        persona = step.choose(argument, session)
        return t("persona.off") if persona is None else introduce(persona)

    def _list(self, step: PersonaStep, session: Session) -> str:
        found = each_persona(session.plugins.registry)
        active = step.persona
        if active is not None and active.name not in found:  # from a file elsewhere
            found[active.name] = active
        width = max((len(name) for name in found), default=0)
        lines = []
        for name, item in found.items():
            mark = "*" if active is not None and name == active.name else " "
            if isinstance(item, LunaError):
                text = t("list.broken", reason=item.text.splitlines()[0])
            else:
                text = f"{item.title}: {item.description}" if item.description else item.title
            lines.append(f" {mark} {name:<{width}}  {text}")
        head = t("list.none") if active is None else t("list.active", name=active.name)
        return "\n".join([head, *lines, t("list.foot")])

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Names, and `off`."""
        return [name for name in [*known_names(session.plugins.registry), OFF[0]] if name.startswith(prefix)]
