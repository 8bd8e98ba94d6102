"""`/educational`, `/explain`, `/tokens-demo`, `/experts` and `/memory`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.commands import parse_switch
from luna_kernel.contracts.chat import Command

from .step import NAME

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


class EducationalCommand(Command):
    """Explain each answer or not."""

    def run(self, argument: str, session: Session) -> str:
        """`on`, `off`, `tensors` (on, with the tensors of every layer), or the present state.

        Raises:
            UsageError: another word, or this conversation has no such step.
        """
        if session.step(NAME) is None:
            raise UsageError(t("step.missing", steps=", ".join(session.step_names)), hint=t("step.missing.hint"))
        options = session.options
        if argument.strip().lower() in ("tensors", "tensores"):
            options.educational = options.show_tensors = True
        elif argument:
            options.educational = parse_switch(argument, NAME)
            options.show_tensors = options.show_tensors and options.educational
        if not options.educational:
            return t("state.off")
        return t("state.tensors") if options.show_tensors else t("state.on")

    def complete(self, prefix: str, session: Session) -> list[str]:
        """On, off, tensors."""
        return [word for word in ("on", "off", "tensors") if word.startswith(prefix)]


class ExplainCommand(Command):
    """Show the whole path of an answer."""

    def run(self, argument: str, session: Session) -> str:
        """See `explain.parse_look` for the argument.

        Raises:
            UsageError: no such turn, layer, head or token; or the generator is no Luna model.
        """
        from .explain import explain_page, parse_look, quoted_page
        from .reading import reading_of, turn_of

        number, look = parse_look(argument)
        place, turn = turn_of(session, number)
        if turn.generator and turn.generator != session.generator.name:
            return quoted_page(turn, place)
        found = reading_of(session, number)
        return quoted_page(turn, place) if found is None else explain_page(found, look)

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Numbers of turns."""
        numbers = [str(number) for number in range(1, len(session.turns) + 1)]
        return [number for number in numbers if number.startswith(prefix)]


class TokensCommand(Command):
    """Show how a text becomes tokens."""

    def run(self, argument: str, session: Session) -> str:
        """The argument's tokens; without one, those of the last question.

        Raises:
            UsageError: there is no text, or the generator has no tokenizer to look at.
        """
        from .reading import luna_generator
        from .tokens import tokens_page

        generator = luna_generator(session)
        text = argument or (session.turns[-1].query if session.turns else "")
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1]
        if not text:
            raise UsageError(t("tokens.usage"))
        return tokens_page(generator.tokenizer, text)


class ExpertsCommand(Command):
    """Show which experts worked on an answer, and on what."""

    def run(self, argument: str, session: Session) -> str:
        """Of the turn of that number; without one, of the last that the model answered.

        Raises:
            UsageError: the model did not answer, or has no experts.
        """
        from .experts import experts_page
        from .reading import luna_generator, reading, reading_of

        found = None
        if argument:
            found = reading_of(session, argument)
        else:
            generator = luna_generator(session)
            turns = list(enumerate(session.turns, 1))
            readings = (reading(generator, turn, number) for number, turn in reversed(turns))
            found = next((one for one in readings if one is not None), None)
        if found is None:
            raise UsageError(t("not_the_model"), hint=t("not_the_model.hint"))
        return experts_page(found)


class MemoryCommand(Command):
    """Show what model and conversation take in memory."""

    def run(self, argument: str, session: Session) -> str:
        """The page.

        Raises:
            UsageError: the generator is no Luna model.
        """
        from .memory import memory_page
        from .reading import luna_generator

        return memory_page(luna_generator(session))
