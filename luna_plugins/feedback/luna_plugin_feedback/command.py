"""`/good`, `/bad`, `/rate` and `/correct`: judge the last answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Command

from .entry import DIMENSIONS, dimension_of, rating_of
from .hearing import STORED, hear

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


def judge(session: Session, feedback: dict[str, Any]) -> str:
    """Keep a judgement of the last answer, tell the other plugins, and say what is known of it now.

    Raises:
        UsageError: nothing was answered yet.
    """
    if not session.turns:
        raise UsageError(t("command.no_turn"), hint=t("command.no_turn.hint"))
    turn = session.turns[-1]
    entry = hear(session, turn, feedback)
    session.plugins.tell("luna_chat_feedback", session=session, turn=turn, feedback={**feedback, STORED: entry.id})
    said = [t(f"verdict.{entry.verdict}")] if entry.verdict else []
    said += [f"{t(f'dimension.{name}')} {entry.ratings[name]}" for name in DIMENSIONS if name in entry.ratings]
    said += [t("said.comment")] if entry.text else []
    said += [t("said.correction")] if entry.correction else []
    return t("command.kept", said=", ".join(said))


class GoodCommand(Command):
    """The last answer was good."""

    def run(self, argument: str, session: Session) -> str:
        """With an optional comment."""
        return judge(session, {"rating": "good", "text": argument})


class BadCommand(Command):
    """The last answer was not good."""

    def run(self, argument: str, session: Session) -> str:
        """With an optional comment."""
        return judge(session, {"rating": "bad", "text": argument})


class RateCommand(Command):
    """Rate the last answer, 1 to 5."""

    def run(self, argument: str, session: Session) -> str:
        """`accurate=2 helpful=4`, then an optional comment.

        Raises:
            UsageError: no dimension, an unknown one, or a rating out of range.
        """
        ratings: dict[str, int] = {}
        rest = argument
        while True:
            word, _, after = rest.partition(" ")
            name, equals, number = word.partition("=")
            if not equals:
                break
            ratings[dimension_of(name)] = rating_of(name, number)
            rest = after.strip()
        if not ratings:
            raise UsageError(
                t("rate.usage"),
                hint=t("dimension.known", names=", ".join(t(f"dimension.{name}") for name in DIMENSIONS)),
            )
        return judge(session, {"ratings": ratings, "text": rest})

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Dimensions."""
        start, _, word = prefix.rpartition(" ")
        return [f"{start} {name}=".lstrip() for name in DIMENSIONS if name.startswith(word)]


class CorrectCommand(Command):
    """Say what the last answer should have been."""

    def run(self, argument: str, session: Session) -> str:
        """The better answer.

        Raises:
            UsageError: it is empty, or the very answer.
        """
        if not argument.strip():
            raise UsageError(t("correct.usage"))
        if session.turns and argument.strip() == session.turns[-1].answer.strip():
            raise UsageError(t("correct.same"), hint=t("correct.same.hint"))
        return judge(session, {"correction": argument})
