"""Where Luna keeps things: the XDG folders, or everything under `LUNA_HOME`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_XDG = {
    "config": ("XDG_CONFIG_HOME", "~/.config"),
    "data": ("XDG_DATA_HOME", "~/.local/share"),
    "state": ("XDG_STATE_HOME", "~/.local/state"),
    "cache": ("XDG_CACHE_HOME", "~/.cache"),
}
"""Source: https://specifications.freedesktop.org/basedir-spec/latest/"""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def _folder(kind: str) -> Path:
    home = os.environ.get("LUNA_HOME")
    if home:
        return Path(home).expanduser() / kind
    if sys.platform == "linux" and "ANDROID_DATA" not in os.environ:
        # What platformdirs says there (a test holds the two together); its import is 4 ms of every start.
        variable, standard = _XDG[kind]
        given = os.environ.get(variable, "").strip()
        return Path(given or os.path.expanduser(standard)) / "luna"  # noqa: PTH111 - `Path.home` may fail
    import platformdirs

    return Path(getattr(platformdirs, f"user_{kind}_dir")("luna", appauthor=False))


def config_dir() -> Path:
    """User settings (`settings.toml`), personas of one's own."""
    return _folder("config")


def data_dir() -> Path:
    """Models, knowledge bases, sessions: what a user would miss. `LUNA_DATA_DIR` puts it elsewhere."""
    elsewhere = os.environ.get("LUNA_DATA_DIR")
    return Path(elsewhere).expanduser() if elsewhere else _folder("data")


def state_dir() -> Path:
    """Line history and logs."""
    return _folder("state")


def cache_dir() -> Path:
    """What can be made again."""
    return _folder("cache")


def models_dir() -> Path:
    """One folder per model that the user named."""
    return data_dir() / "models"


def is_safe_name(name: str) -> bool:
    """Whether `name` may become the name of a file: `[a-z0-9][a-z0-9._-]{0,63}`, so no separators and no `..`."""
    return _NAME.fullmatch(name) is not None and ".." not in name
