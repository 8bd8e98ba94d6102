"""Errors that people read: what happened, where, why, and what to do.

The text of an error comes from a message catalogue (`luna_kernel.base.messages`), so it is in the user's language;
the command line prints it without a traceback and leaves with `exit_code`.
"""

from __future__ import annotations


class LunaError(Exception):
    """Something failed that a person can understand.

    Args:
        text: what happened, where and why, one to a few lines, in the user's language.
        hint: what to do about it; printed on its own line.
        about: name of the option that is wrong, for whoever calls it otherwise: a field of a request.
    """

    exit_code = 1

    def __init__(self, text: str, *, hint: str | None = None, about: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint
        self.about = about

    def __str__(self) -> str:
        return f"{self.text}\n{self.hint}" if self.hint else self.text

    def to_json(self) -> dict[str, object]:
        """The error as `--json` prints it; keys are never translated."""
        return {"ok": False, "error": {"type": type(self).__name__, "message": self.text, "hint": self.hint}}


class UsageError(LunaError):
    """Wrong use or bad input: an unknown name, a missing file, a value out of range. Exit status 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration that does not validate; the text names the node, the field and the nearest right one."""


class PluginError(UsageError):
    """A plugin that was asked for cannot be used."""


class MissingPluginsError(PluginError):
    """A model needs plugins that are not here, or are here in the wrong version."""


class IntegrityError(LunaError):
    """A file is damaged, torn, or not the one that its manifest records. Nothing was read from it."""


class StorageError(LunaError):
    """The disk refused: full, read-only, no permission. What was there before is whole."""


class WorkerError(LunaError):
    """An untrusted file was refused or its parser ran over its limits of memory, time or size."""
