"""`/persona`: see who can speak, and choose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Command

from .finding import AUTO, OFF, each_persona, known_names
from .step import PersonaStep, introduce
from .style import DIMENSIONS, instruction

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
        step = _step(session)
        if not argument:
            return self._list(step, session)
        persona = step.choose(argument, session)
        if argument == AUTO:
            return t("persona.auto")
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
        """Names, `auto`, and `off`."""
        return [name for name in [*known_names(session.plugins.registry), AUTO, OFF[0]] if name.startswith(prefix)]


class StyleCommand(Command):
    """Show or set the style sliders."""

    def run(self, argument: str, session: Session) -> str:
        """`/style formality=0.8 creativity=0.2`, `/style off`; they go before the persona's own.

        Raises:
            UsageError: no such slider, or a number that it cannot have; then nothing changes.
        """
        step = _step(session)
        if argument.lower() in OFF:
            step.style = {}
        elif argument:
            step.style = step.style | dict(_setting(item) for item in argument.replace(",", ".").split())
        if not step.style:
            return t("style.none", names=", ".join(DIMENSIONS))
        values = ", ".join(f"{name} {value:g}" for name, value in step.style.items())
        return t("style.is", values=values, text=instruction(step.style) or "-")

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Names of sliders."""
        last = prefix.rpartition(" ")[2]
        return [prefix[: len(prefix) - len(last)] + f"{name}=" for name in DIMENSIONS if name.startswith(last)]


def _setting(item: str) -> tuple[str, float]:
    """`formality=0.8` as a pair."""
    name, _, value = item.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if name not in DIMENSIONS or not 0 <= number <= 1:
        raise UsageError(t("style.bad", item=item[:40]), hint=t("style.bad.hint", names=", ".join(DIMENSIONS)))
    return name, number


def _step(session: Session) -> PersonaStep:
    step = session.step("persona")
    if not isinstance(step, PersonaStep):
        raise UsageError(t("step.missing", steps=", ".join(session.step_names)), hint=t("step.missing.hint"))
    return step
