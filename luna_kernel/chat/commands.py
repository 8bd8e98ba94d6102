"""The kernel's `/commands`. Those of a plugin are registered the same way, kind `command`."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue, language, load_texts, number_text
from luna_kernel.contracts.chat import Command, Turn

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session
    from luna_kernel.plugins.registry import Component

t = catalogue(__package__)


class HelpCommand(Command):
    """Show the commands."""

    def run(self, argument: str, session: Session) -> str:
        """One line per command, or the help of one."""
        components = session.plugins.registry.of_kind("command")
        if argument:
            component = session.plugins.registry.get("command", argument.removeprefix("/"))
            return f"/{component.name}  {command_help(component)}"
        width = max(len(component.name) for component in components) + 1
        lines = [f"  /{item.name:<{width}} {command_help(item)}" for item in sorted(components, key=lambda c: c.name)]
        return "\n".join([t("help.title"), *lines, t("help.keys")])

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Names of commands."""
        return [c.name for c in session.plugins.registry.of_kind("command") if c.name.startswith(prefix)]


class ClearCommand(Command):
    """Begin a new conversation."""

    def run(self, argument: str, session: Session) -> str:
        """Forget the turns here; the store keeps them."""
        session.clear()
        return t("clear.done")


class SaveCommand(Command):
    """Give this conversation a name."""

    def run(self, argument: str, session: Session) -> str:
        """Name it `argument`."""
        if not argument:
            raise UsageError(t("save.usage"))
        session.save(argument)
        return t("save.done", name=argument)


class LoadCommand(Command):
    """Go on with a conversation that has a name."""

    def run(self, argument: str, session: Session) -> str:
        """Load `argument`, or list what there is."""
        names = self.complete("", session)
        if not argument:
            return t("load.list", names=", ".join(names)) if names else t("store.none_saved")
        count = session.load(argument)
        last = session.turns[-1].query if session.turns else ""
        return t("load.done", name=argument, count=count, last=last[:80])

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Names of kept conversations."""
        kept = session.store.sessions() if session.store is not None else []
        return [item.name for item in kept if item.name and item.name.startswith(prefix)]


class ThinkingCommand(Command):
    """Show or hide the thinking part."""

    def run(self, argument: str, session: Session) -> str:
        """`on`, `off`, or the present state."""
        if argument:
            session.options.show_thinking = parse_switch(argument, "thinking")
        return t("thinking.on") if session.options.show_thinking else t("thinking.off")

    def complete(self, prefix: str, session: Session) -> list[str]:
        """On and off."""
        return [word for word in ("on", "off") if word.startswith(prefix)]


class StatsCommand(Command):
    """Show figures of the last answer and of the conversation."""

    def run(self, argument: str, session: Session) -> str:
        """Tokens, seconds and steps."""
        lines = [
            t(
                "stats.session",
                id=session.id[:8],
                turns=len(session.turns),
                model=session.options.model or session.generator.name,
                plugins=", ".join(session.plugins.names) or "-",
                steps=" → ".join(session.step_names),
            )
        ]
        if session.turns:
            turn = session.turns[-1]
            lines.append(stats_line(turn))
            for name, seconds in turn.timings.items():
                lines.append(f"  {name:<12} {number_text(seconds * 1000, 1):>9} ms")
            for name, count in turn.usage.items():
                lines.append(f"  {name:<20} {count}")
            reasons = {name: note["reason"] for name, note in turn.notes.items() if "reason" in note}
            lines += [f"  {name:<12} {reason}" for name, reason in reasons.items()]
        tokens = sum(turn.usage.get("completion_tokens", 0) for turn in session.turns)
        seconds = sum(turn.timings.get("total", 0.0) for turn in session.turns)
        lines.append(t("stats.total", tokens=tokens, seconds=number_text(seconds, 1)))
        return "\n".join(lines)


class ExitCommand(Command):
    """Leave."""

    def run(self, argument: str, session: Session) -> None:
        """Tell whoever runs the conversation to end it."""
        session.closing = True


class QuitCommand(ExitCommand):
    """Leave: another name, which other chats have."""


def parse_switch(word: str, command: str) -> bool:
    """`on` or `off`, in English or Portuguese.

    Raises:
        UsageError: another word.
    """
    lower = word.strip().lower()
    if lower in ("on", "sim", "liga", "ligado", "1", "yes"):
        return True
    if lower in ("off", "nao", "não", "desliga", "desligado", "0", "no"):
        return False
    raise UsageError(t("switch.usage", command=command, word=word[:40]))


def command_help(component: Component) -> str:
    """A command's help in the user's language: its package's text `command.<name>`, else what it registered."""
    package = component.target.partition(":")[0]
    while "." in package:
        package = package.rpartition(".")[0]
        if importlib.util.find_spec(f"{package}") is None:
            continue
        try:
            texts = load_texts(package, language())
        except (OSError, ValueError, ModuleNotFoundError):
            continue
        if f"command.{component.name}" in texts:
            return texts[f"command.{component.name}"]
    return component.help


def stats_line(turn: Turn) -> str:
    """One line about an answer: who, how many tokens, how fast."""
    parts = [turn.generator or "-"]
    tokens = turn.usage.get("completion_tokens", 0)
    seconds = turn.timings.get("generate", 0.0)
    if tokens:
        parts.append(t("stats.tokens", tokens=tokens))
        if seconds > 0:
            parts.append(t("stats.speed", speed=f"{tokens / seconds:.0f}"))
    if "first_token" in turn.timings:
        parts.append(t("stats.first", milliseconds=f"{turn.timings['first_token'] * 1000:.0f}"))
    parts.append(t("stats.seconds", seconds=number_text(turn.timings.get("total", 0.0), 2)))
    if turn.stop_reason in ("interrupted", "length"):
        parts.append(t(f"stats.{turn.stop_reason}"))
    return " · ".join(parts)
