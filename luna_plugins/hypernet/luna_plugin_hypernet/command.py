"""`/domain`: say in which domain the model answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Command

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)

CONDITION = "domain"
OFF = "off"


class DomainCommand(Command):
    """Show the domains that the model knows, or choose one."""

    def run(self, argument: str, session: Session) -> str:
        """Choose `argument`, or `off`; without one, list them with the chosen one marked.

        Raises:
            UsageError: the model reads no domain, or does not know this one; names the nearest.
        """
        if not argument:
            chosen = session.conditions.get(CONDITION)
            names = [f" {'*' if name == chosen else ' '} {name}" for name in _known(session)]
            return "\n".join([t("domain.list") if names else t("domain.none"), *names])
        session.set_condition(CONDITION, None if argument == OFF else argument)
        return t("domain.off") if argument == OFF else t("domain.chosen", name=argument)

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Names, and `off`."""
        return [name for name in [*_known(session), OFF] if name.startswith(prefix)]


def _known(session: Session) -> Sequence[str]:
    return session.generator.conditions.get(CONDITION, ())
