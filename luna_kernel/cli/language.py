"""The language and the encoding of the command line, for the time of one run.

click translates its own texts through the global gettext domain. We bind it to `luna`, whose catalogue in
`locale/` holds click's texts in Portuguese, before anything of click is shown. gettext reads the language from
LANGUAGE, so that variable is set while the command runs and restored after it.
"""

from __future__ import annotations

import contextlib
import gettext
import os
import sys
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path

from luna_kernel.base.messages import language

DOMAIN = "luna"
LOCALE_FOLDER = Path(__file__).parent / "locale"

gettext.bindtextdomain(DOMAIN, str(LOCALE_FOLDER))
gettext.textdomain(DOMAIN)


def peek(args: Sequence[str], *names: str) -> str | None:
    """The value of an option before click parses the line: the last `--name VALUE` or `--name=VALUE` before `--`."""
    found = None
    for index, arg in enumerate(args):
        if arg == "--":
            break
        name, equals, value = arg.partition("=")
        if name in names:
            if equals:
                found = value
            elif index + 1 < len(args):
                found = args[index + 1]
    return found


@contextlib.contextmanager
def speaking(args: Sequence[str]) -> Iterator[None]:
    """Run in the language that `--lang` in `args` asks for, else the one of the environment."""
    before = {name: os.environ.get(name) for name in ("LUNA_LANG", "LANGUAGE")}
    asked = peek(args, "--lang")
    try:
        if asked is not None and asked.lower()[:2] in ("pt", "en"):
            os.environ["LUNA_LANG"] = asked  # worker processes speak it too
        os.environ["LANGUAGE"] = language()
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def use_utf8() -> None:
    """Text goes in and out as UTF-8 whatever the locale says; what cannot be encoded is shown escaped."""
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"), (sys.stdin, "replace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)
