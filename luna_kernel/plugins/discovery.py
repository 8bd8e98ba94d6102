"""Find installed plugins: one walk over the entry points of group `luna.plugins`, importing none of them.

The walk reads the metadata folders on the path itself. `importlib.metadata` says the same (a test holds the two
together) but takes 40 ms to import, which `luna --help` would pay.
Source: https://packaging.python.org/en/latest/specifications/entry-points/
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

GROUP = "luna.plugins"


@dataclass
class FoundPlugin:
    """An entry point, not yet imported."""

    name: str
    target: str
    """Module, or `module:attribute`."""
    distribution: str
    version: str
    rivals: list[str] = field(default_factory=list)
    """Other distributions that claim the same entry-point name."""


def discover(path: Iterable[str] | None = None) -> dict[str, FoundPlugin]:
    """All installed plugins by entry-point name, sorted. Two distributions with one name: `rivals` is not empty.

    Args:
        path: folders to look in, by default `sys.path`.
    """
    found: dict[str, FoundPlugin] = {}
    seen: set[tuple[str, str]] = set()
    for folder in _metadata_folders(sys.path if path is None else path):
        points = _entry_points(_read(f"{folder}/entry_points.txt"))
        if not points:
            continue
        # An editable install and a stale wheel of the same distribution may both be on the path: the first one wins,
        # as it does for imports.
        dist_name, version = _name_and_version(_read(f"{folder}/METADATA") or _read(f"{folder}/PKG-INFO"))
        for name, target in points:
            if (dist_name.lower(), name) in seen:
                continue
            seen.add((dist_name.lower(), name))
            if name in found:
                found[name].rivals.append(dist_name)
            else:
                found[name] = FoundPlugin(name, target, dist_name, version)
    return dict(sorted(found.items()))


def _metadata_folders(path: Iterable[str]) -> Iterator[str]:
    """The `.dist-info` and `.egg-info` folders of a path, each entry of the path once."""
    for entry in dict.fromkeys(path):
        folder = entry or "."
        yield from (f"{folder}/{name}" for name in _content(folder) if name.endswith((".dist-info", ".egg-info")))


def _content(folder: str) -> list[str]:
    """Names of what a folder holds; nothing where it is an archive, a finder's hook, or gone."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - hundreds of `Path` objects are a millisecond of every start
    except OSError:
        return []


def _read(file: str) -> str:
    """A metadata file's text; nothing where there is none."""
    try:
        with open(file, encoding="utf-8", errors="replace") as opened:  # noqa: PTH123 - as above
            return opened.read()
    except OSError:
        return ""


def _entry_points(text: str) -> list[tuple[str, str]]:
    """Name and target of each entry point of the group."""
    points, group = [], ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            group = line.strip("[]").strip()
        elif group == GROUP and line and line[0] != "#":
            name, equals, target = line.partition("=")
            if equals:
                points.append((name.strip(), target.partition("[")[0].strip()))
    return points


def _name_and_version(text: str) -> tuple[str, str]:
    """What the head of the metadata says, before its first empty line."""
    head = dict(line.split(": ", 1) for line in text.partition("\n\n")[0].splitlines() if ": " in line)
    return head.get("Name", "?").strip(), head.get("Version", "?").strip()
