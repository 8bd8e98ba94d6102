"""What a person sees of a training run: remarks, and progress as a live line or, without a terminal, a line now and
then."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Protocol, TextIO

from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

PLAIN_SECONDS = 5.0
"""How often progress is written where there is no terminal."""


class Console(Protocol):
    """Where a run speaks to people."""

    def say(self, text: str) -> None:
        """A remark."""

    def start_progress(self, title: str) -> None:
        """Progress begins."""

    def progress(self, share: float, text: str, seconds_left: float | None) -> None:
        """How far it is: `share` of 1, and a few words."""

    def end_progress(self) -> None:
        """Progress is over, done or not."""


class QuietConsole:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def start_progress(self, title: str) -> None:
        """Nothing."""

    def progress(self, share: float, text: str, seconds_left: float | None) -> None:
        """Nothing."""

    def end_progress(self) -> None:
        """Nothing."""


class PlainConsole:
    """Lines of text; progress every few seconds."""

    def __init__(self, stream: TextIO | None = None, *, every: float = PLAIN_SECONDS) -> None:
        self.stream = stream
        self.every = every
        self._next = 0.0
        self._last = ""

    def say(self, text: str) -> None:
        """One remark, one line."""
        print(text, file=self.stream or sys.stderr, flush=True)

    def start_progress(self, title: str) -> None:
        """The first progress line comes with the first step."""
        self._next, self._last = 0.0, ""

    def progress(self, share: float, text: str, seconds_left: float | None) -> None:
        """A line, if the last one is some seconds old."""
        line = f"{share:4.0%} {text}" + _left(seconds_left)
        now = time.monotonic()
        if now >= self._next:
            self.say(line)
            self._next, line = now + self.every, ""
        self._last = line

    def end_progress(self) -> None:
        """The last line, if it was not written."""
        if self._last:
            self.say(self._last)
            self._last = ""


class LiveConsole(PlainConsole):
    """A progress bar on a terminal, drawn by rich."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._bar: Any = None
        self._task: Any = None

    def start_progress(self, title: str) -> None:
        """Show the bar."""
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(30),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
        )
        console = RichConsole(file=self.stream or sys.stderr, highlight=False)
        self._bar = Progress(*columns, console=console, transient=False, refresh_per_second=4)
        self._task = self._bar.add_task(title, total=1.0, text="")
        self._bar.start()

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is None:
            super().say(text)
        else:
            self._bar.console.print(text, markup=False)

    def progress(self, share: float, text: str, seconds_left: float | None) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=share, text=text + _left(seconds_left))

    def end_progress(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def make_console(*, quiet: bool = False, stream: TextIO | None = None) -> Console:
    """The console that fits where output goes (stderr unless told)."""
    if quiet:
        return QuietConsole()
    target = stream or sys.stderr
    live = target.isatty() and os.environ.get("TERM") != "dumb"
    return LiveConsole(stream) if live else PlainConsole(stream)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    clock = f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
    return t("progress.left", time=clock)
