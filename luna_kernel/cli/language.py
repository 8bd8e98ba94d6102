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
from luna_kernel.base.settings_files import early_values

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


def _lang_of_settings() -> str | None:
    return next((value for _, value in early_values("lang") if isinstance(value, str)), None)


@contextlib.contextmanager
def speaking(args: Sequence[str]) -> Iterator[None]:
    """Run in the language that `--lang` in `args` asks for, else `LUNA_LANG`, the settings' `lang`, the locale's."""
    before = {name: os.environ.get(name) for name in ("LUNA_LANG", "LANGUAGE")}
    asked = peek(args, "--lang") or before["LUNA_LANG"] or _lang_of_settings()
    try:
        if asked is not None and asked.lower()[:2] in ("pt", "en"):
            os.environ["LUNA_LANG"] = "en" if asked.lower().startswith("en") else "pt_BR"  # worker processes too
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
