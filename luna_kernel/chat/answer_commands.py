"""The `/commands` that change the conversation's last answer, or how the next ones are made."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import problem_of
from luna_kernel.contracts.chat import Command, Sampling
from luna_kernel.model.sampling_config import Sampling as Checked

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)

OFF = ("off", "none", "não", "nao")


class RegenerateCommand(Command):
    """Answer the last question anew."""

    def run(self, argument: str, session: Session) -> str | None:
        """The new answer takes the former's place; a fixed seed moves on by one, or the answer would be the same."""
        session.ask_again()
        return t("regenerate.same") if session.options.sampling.temperature == 0 else None


class EditCommand(Command):
    """Ask the last question in other words."""

    def run(self, argument: str, session: Session) -> None:
        """Ask `argument` in its place; without one, the last question stands at the prompt to be changed.

        Raises:
            UsageError: nothing was asked yet.
        """
        if argument:
            session.ask_again(argument)
        else:
            session.draft = f"/edit {session.last_turn().query}"


class UndoCommand(Command):
    """Take the last question and its answer back."""

    def run(self, argument: str, session: Session) -> str:
        """Also out of the store: the conversation goes on as if it had not been asked."""
        turn = session.undo()
        return t("undo.done", query=" ".join(turn.query.split())[:80], count=len(session.turns))


class SystemCommand(Command):
    """Show or set the instruction that the model is given with every question."""

    def run(self, argument: str, session: Session) -> str:
        """Set it to `argument`; `off` takes it away."""
        if argument:
            session.options.context = "" if argument.lower() in OFF else argument
        return t("system.is", text=session.options.context) if session.options.context else t("system.none")

    def complete(self, prefix: str, session: Session) -> list[str]:
        """`off`."""
        return [word for word in OFF[:1] if word.startswith(prefix)]


class SetCommand(Command):
    """Show or set how words are drawn."""

    def run(self, argument: str, session: Session) -> str:
        """`/set`, `/set temperature`, `/set temperature 0.3`; `default` takes the kernel's value.

        Raises:
            UsageError: no such field, or a value that it cannot have.
        """
        name, _, value = argument.partition(" ")
        if not argument:
            return "\n".join(self._line(session, field) for field in settable())
        if value:
            session.options.sampling = changed(session.options.sampling, name, value.strip())
        elif name not in settable():
            raise UsageError(t("set.unknown", name=name[:40], names=", ".join(settable())))
        return self._line(session, name)

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Names of fields."""
        return [name for name in settable() if name.startswith(prefix)]

    def _line(self, session: Session, name: str) -> str:
        value = getattr(session.options.sampling, name)
        return f"  {name:<20} {t('set.random') if value is None else value}"


class _OneField(SetCommand):
    """`/set` for one field."""

    field = ""

    def run(self, argument: str, session: Session) -> str:
        """Show it, or set it to `argument`."""
        return super().run(f"{self.field} {argument}".strip(), session)

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Nothing: a number."""
        return []


class TempCommand(_OneField):
    """Show or set the temperature."""

    field = "temperature"


class TokensCommand(_OneField):
    """Show or set how many tokens an answer may have."""

    field = "max_tokens"


class MultiCommand(Command):
    """Write a question of several lines; `/end` asks it."""

    def run(self, argument: str, session: Session) -> str:
        """Collect lines from now on."""
        session.collecting = [argument] if argument else []
        return t("multi.begin")


def settable() -> list[str]:
    """The fields of `Sampling` that `/set` knows."""
    return [field.name for field in fields(Sampling) if field.name != "stop"]


def changed(sampling: Sampling, name: str, value: Any) -> Sampling:
    """`sampling` with one field read from what was typed.

    Raises:
        UsageError: no such field, or the value is out of its range; says what it may be.
    """
    if name not in settable():
        raise UsageError(t("set.unknown", name=name[:40], names=", ".join(settable())))
    if str(value).lower() == "default":
        default: Any = next(field.default for field in fields(Sampling) if field.name == name)
        return replace(sampling, **{name: default})
    try:
        number = _check(name, str(value).replace(",", "."))
    except ValidationError as error:
        reason = problem_of(error.errors(include_url=False, include_input=False)[0])
        raise UsageError(t("set.bad", name=name, value=str(value)[:40], reason=reason)) from error
    return replace(sampling, **{name: number})


def _check(name: str, value: str) -> Any:
    """The number, within the range of its field."""
    if name == "max_tokens":
        return TypeAdapter(Annotated[int, Field(ge=1)]).validate_python(value)
    return getattr(Checked.model_validate({name: value}), name)
