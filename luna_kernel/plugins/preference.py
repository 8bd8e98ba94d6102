"""Which selection holds when `--plugins` is not given: `LUNA_PLUGINS`, `luna.toml`, the user's settings, else `all`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from luna_kernel.base.errors import ConfigError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.settings_files import PROJECT_FILE, early_values

from .selection import Selection

t = catalogue(__package__)


def preferred_selection() -> Selection:
    """What the environment or a settings file asks for, else `all`.

    Raises:
        ConfigError: `plugins` in a settings file is neither a text nor a list of texts; or `luna.toml` names a file
            (`./mine.py`). Whoever only stands in a folder has not agreed to run code that lies in it.
        UsageError: the text does not parse.
    """
    text = os.environ.get("LUNA_PLUGINS")
    if text:
        return Selection.parse(text)
    for file, value in early_values("plugins"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = ",".join(value) or "none"
        if not isinstance(value, str):
            raise ConfigError(t("preference.bad", file=file))
        selection = Selection.parse(value)
        if selection.files and file.name == PROJECT_FILE:
            raise ConfigError(
                t("preference.code", file=file, path=selection.files[0]), hint=t("preference.code.hint", text=value)
            )
        # In the user's own settings a path is relative to that file, wherever Luna is started.
        files = tuple(str(file.parent / Path(path).expanduser()) for path in selection.files)
        return replace(selection, files=files)
    return Selection()
