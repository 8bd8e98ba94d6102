"""What a document is called when it does not say."""

from __future__ import annotations

from pathlib import PurePath


def file_title(source: str) -> str:
    """The file's name without its ending."""
    return PurePath(source).stem
