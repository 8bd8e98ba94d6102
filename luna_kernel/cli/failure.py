"""How a run that failed ends: what is printed, where, and the exit status.

0 good, 1 failed, 2 wrong use or bad input, 130 interrupted. No traceback without `--debug` or `LUNA_DEBUG=1`.
With `--json` the error is one JSON object on stdout and the status is the same.
"""

from __future__ import annotations

import errno
import os
import sys

import click

from luna_kernel.base.errors import LunaError, StorageError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of

from .app import App

t = catalogue(__package__)

INTERRUPTED = 130

_WRONG_PATH = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)


def explain(error: BaseException) -> LunaError:
    """Any failure as a `LunaError`: its own, or a sentence for what Python, SQLite or the machine refused."""
    if isinstance(error, LunaError):
        return error
    if isinstance(error, click.ClickException):
        return _explain_click(error)
    if isinstance(error, UnicodeError):
        return UsageError(t("error.encoding", reason=str(error)), hint=t("error.encoding.hint"))
    if isinstance(error, OSError):
        place = error.filename if error.filename is not None else "-"
        kind = UsageError if error.errno in _WRONG_PATH else StorageError
        return kind(t("error.file", path=place, reason=reason_of(error)))
    if isinstance(error, MemoryError):
        return LunaError(t("error.memory"), hint=t("error.memory.hint"))
    sqlite = sys.modules.get("sqlite3")  # not imported when nothing used it
    if sqlite is not None and isinstance(error, sqlite.Error):
        return StorageError(t("error.database", reason=str(error)), hint=t("error.database.hint"))
    return LunaError(t("error.internal", kind=type(error).__name__, reason=str(error)), hint=t("error.internal.hint"))


def _explain_click(error: click.ClickException) -> LunaError:
    hint = None
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = t("error.usage.hint", command=error.ctx.command_path)
    kind = UsageError if error.exit_code == 2 else LunaError
    return kind(error.format_message(), hint=hint)


def report(error: BaseException, app: App) -> int:
    """Print `error` for a person or as JSON, and return the exit status."""
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
        print(t("error.interrupted" if interrupted else "error.aborted"), file=sys.stderr)
        return INTERRUPTED if interrupted else 1
    luna_error = explain(error)
    if app.debug or os.environ.get("LUNA_DEBUG", "") not in ("", "0"):
        import traceback  # not needed by a run that succeeds

        traceback.print_exception(error, file=sys.stderr)
    if app.json:
        app.emit(luna_error.to_json())
    elif isinstance(error, click.UsageError):
        error.show()
    else:
        print(t("error.line", text=luna_error.text), file=sys.stderr)
        if luna_error.hint:
            print(luna_error.hint, file=sys.stderr)
    return luna_error.exit_code


def close_quietly() -> None:
    """The reader of our output went away (`luna … | head`): nothing more can be written, and that is no failure."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # what is still in the buffer goes where nobody reads
    os.close(null)
