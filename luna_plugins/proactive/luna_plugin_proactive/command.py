"""`/proactive`: switch the suggestions on or off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.commands import parse_switch
from luna_kernel.contracts.chat import Command

from .step import NAME, ProactiveStep

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


class ProactiveCommand(Command):
    """Switch the suggestions on or off."""

    def run(self, argument: str, session: Session) -> str:
        """`on`, `off`, or the present state.

        Raises:
            UsageError: another word, or this conversation has no such step.
        """
        step = session.step(NAME)
        if not isinstance(step, ProactiveStep):
            raise UsageError(t("step.missing", steps=", ".join(session.step_names)), hint=t("step.missing.hint"))
        if argument:
            step.on = parse_switch(argument, NAME)
            step.forgiven = len(session.turns) if step.on else step.forgiven
        return t("state.on", limit=step.config.limit) if step.on else t("state.off")

    def complete(self, prefix: str, session: Session) -> list[str]:
        """On and off."""
        return [word for word in ("on", "off") if word.startswith(prefix)]
