"""What every verb is given: the plugins of this run, and where its output goes.

stdout is data only (answers, tables, JSON); remarks, progress and errors go to stderr.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luna_kernel.base.messages import catalogue

if TYPE_CHECKING:
    from luna_kernel.plugins import Plugins

t = catalogue(__package__)


@dataclass
class App:
    """One run of the command line; `ctx.obj` of every verb (`@click.pass_obj`)."""

    selection: str | None = None
    """The text of `--plugins`, on the root or on the verb; None when it was not given."""
    json: bool = False
    """Whether to print JSON: set by `--json` on the root or on the verb."""
    debug: bool = False
    _remarked: bool = field(default=False, repr=False)
    _plugins: Plugins | None = field(default=None, repr=False)

    def plugins(self, *, strict: bool = True) -> Plugins:
        """The plugins of this run, loaded at the first call; later calls give the same object.

        Args:
            strict: raise when a plugin that was named cannot be used. With False its fault is in `plugins.faults`.

        Raises:
            UsageError: the selection is no selection, or names a plugin that is not installed.
            PluginError: a named plugin is broken.
        """
        if self._plugins is None:
            from luna_kernel.plugins import load_plugins

            self._plugins = load_plugins(self.selection, strict=False)
        if strict:
            self._plugins.raise_faults()
            if not self._remarked:
                self._remarked = True
                for remark in self._plugins.remarks:
                    self.say(remark)
        return self._plugins

    def select(self, text: str) -> None:
        """Take another selection; what was loaded for the old one is forgotten."""
        if text != self.selection:
            self.selection, self._plugins, self._remarked = text, None, False

    def emit(self, data: object) -> None:
        """Print `data` as one line of JSON on stdout."""
        print(json.dumps(data, ensure_ascii=False, allow_nan=False), flush=True)

    def write(self, text: str) -> None:
        """Print text that is the verb's result on stdout."""
        print(text, flush=True)

    def say(self, text: str) -> None:
        """Print a remark for the person on stderr."""
        print(text, file=sys.stderr, flush=True)

    def confirm(self, question: str) -> bool:
        """Whether the person at the terminal says yes to a question about something that cannot be undone.

        Raises:
            UsageError: there is no terminal; `--yes` answers for it.
        """
        from luna_kernel.base.errors import UsageError

        if not sys.stdin.isatty():
            raise UsageError(t("confirm.no_answer", question=question), hint=t("confirm.no_answer.hint"))
        self.say(f"{question} {t('confirm.choices')}")
        return input().strip().lower() in ("s", "sim", "y", "yes")
