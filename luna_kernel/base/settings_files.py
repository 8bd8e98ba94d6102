"""Where the settings files are, and single values of them for what runs before every command.

`Settings` reads and validates everything, but costs pydantic. The plugins to switch on and the language are needed by
`luna --help` too, so they are read here with nothing but the TOML parser.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luna_kernel.base import paths

PROJECT_FILE = "luna.toml"
USER_FILE = "settings.toml"


def project_file() -> Path | None:
    """The nearest `luna.toml`, here or above, up to the repository's root or the home folder.

    Above the current folder only a file of this user's own (or root's) counts: anyone may put one into `/tmp`.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return None
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home fails where there is none
    for folder in (here, *here.parents):
        file = folder / PROJECT_FILE
        with contextlib.suppress(OSError):
            if file.is_file() and (folder == here or file.stat().st_uid in (os.getuid(), 0)):
                return file
        if (folder / ".git").exists() or folder == home:
            return None
    return None


def user_file() -> Path:
    """The user's own settings, whether the file is there or not."""
    return paths.config_dir() / USER_FILE


def early_values(key: str) -> Iterator[tuple[Path, Any]]:
    """(file, value) of `key` in the project's file, then in the user's, where it is set.

    A file that cannot be read is passed over: `Settings` explains what is wrong with it, where it is used in full.
    """
    for file in (project_file(), user_file()):
        if file is None or not file.is_file():
            continue
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        with contextlib.suppress(OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError):
            values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
            if key in values:
                yield file, values[key]
