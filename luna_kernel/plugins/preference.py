"""Which selection holds when `--plugins` is not given: `LUNA_PLUGINS`, `luna.toml`, the user's settings, else `all`.

Only the key `plugins` is read here, with nothing but the TOML parser: this runs before every command, and pydantic
would cost more than all the rest. The settings themselves are validated where they are used.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from luna_kernel.base.errors import ConfigError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.paths import config_dir

t = catalogue(__package__)

PROJECT_FILE = "luna.toml"
USER_FILE = "settings.toml"


def preferred_selection() -> str:
    """The text of the selection that the environment or a settings file asks for, else `all`.

    Raises:
        ConfigError: a settings file cannot be read, or its `plugins` is neither a text nor a list of texts.
    """
    text = os.environ.get("LUNA_PLUGINS")
    if text:
        return text
    for file in (Path(PROJECT_FILE), config_dir() / USER_FILE):
        value = _read(file).get("plugins")
        if isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return ",".join(value) or "none"
        if value is not None:
            raise ConfigError(t("preference.bad", file=file))
    return "all"


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(t("preference.unreadable", file=file, reason=error)) from error
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(t("preference.unreadable", file=file, reason=error)) from error
