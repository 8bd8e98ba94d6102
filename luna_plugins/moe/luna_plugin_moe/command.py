"""`/emotion`: tell the model an emotion for the turns to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Command

from .emotions import EMOTIONS, KNOWN, parse_emotion, show_emotion

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)

EMOTION = "emotion"
"""The condition."""


class EmotionCommand(Command):
    """Show, set or take away the emotion."""

    def run(self, argument: str, session: Session) -> str:
        """`joy=0.8 curiosity=0.5` sets it, `off` takes it away, nothing shows it.

        Raises:
            UsageError: the model reads no emotion, or the argument is not of that form.
        """
        if argument.strip().lower() == "off":
            session.set_condition(EMOTION, None) if EMOTION in session.conditions else None
            return t("emotion.off")
        if EMOTION not in session.generator.conditions:
            raise UsageError(t("emotion.silent"))
        if argument.strip():
            session.set_condition(EMOTION, parse_emotion(argument))
        now = session.conditions.get(EMOTION)
        return t("emotion.none") if not now else t("emotion.now", emotion=show_emotion(now))

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Names of emotions, after what stands there already."""
        before, space, last = prefix.rpartition(" ")
        names = [name for name in (*EMOTIONS, *KNOWN, "off") if name.startswith(last.lower())]
        return [f"{before}{space}{name}" for name in dict.fromkeys(names)]
