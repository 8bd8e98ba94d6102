"""The first line of a conversation, typed while its session is still being opened."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal

from luna_kernel.base.messages import catalogue
from luna_kernel.chat.printing import Printer
from luna_kernel.chat.terminal import CommandCompleter, late_ctrl_c, make_prompt, prompt_label

if TYPE_CHECKING:
    from luna_kernel.plugins import Plugins

t = catalogue(__package__)


class Waited(Protocol):
    """A session that is being opened."""

    plugins: Plugins
    error: BaseException | None

    @property
    def done(self) -> bool:
        """Whether it is open, or has failed."""
        ...

    def wait(self) -> None:
        """Wait until it is done; a signal may interrupt that."""
        ...

    def when_done(self, then: Callable[[], None]) -> None:
        """Call `then` once, as soon as it is done, in whichever thread that is."""
        ...

    def take_remarks(self) -> list[str]:
        """What there is to say so far, each once."""
        ...


def first_line(waited: Waited, printer: Printer, *, say: Callable[[str], None], color: bool = True) -> str | None:
    """What the person types; None where they leave.

    Args:
        waited: the session on its way; what it has to say is shown above the prompt when it is there.
        printer: shows remarks.
        say: prints a line of the session's.
        color: False prints no colours (NO_COLOR).

    Raises:
        LunaError: what hindered the session.
    """
    prompt = make_prompt(CommandCompleter(waited.plugins.registry, None), printer, color=color)
    warned = False
    while True:
        try:
            with late_ctrl_c():
                line = prompt.prompt(prompt_label(color, more=False), pre_run=lambda: _watch(prompt, waited, say))
        except KeyboardInterrupt:  # noqa: PERF203  a person types not so fast
            if warned:
                return None
            warned = True
            printer.remark(t("prompt.again_to_leave"))
        except EOFError:
            return None
        else:
            warned = False
            if line.strip() and _is_there(waited, printer):
                return line


def _is_there(waited: Waited, printer: Printer) -> bool:
    """Wait for the session; False where the person stops that by Ctrl-C, and with it the question."""
    try:
        if not waited.done:
            printer.remark(t("prompt.opening"))
        waited.wait()
    except KeyboardInterrupt:
        printer.remark(t("stats.interrupted"))
        return False
    return True


def _watch(prompt: PromptSession[str], waited: Waited, say: Callable[[str], None]) -> None:
    """Now that the prompt stands: show what the session has to say when it is there, or end the prompt if it fails."""
    app, context = prompt.app, contextvars.copy_context()

    def show() -> None:
        for remark in waited.take_remarks():
            say(remark)

    def tell() -> None:
        if waited.error is not None:
            app.exit(exception=waited.error)
        else:
            run_in_terminal(show)

    def pass_on() -> None:
        if app.loop is not None:
            app.loop.call_soon_threadsafe(tell, context=context)

    waited.when_done(pass_on)
