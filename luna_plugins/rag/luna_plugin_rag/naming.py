"""Names that people use: of knowledge bases, and of the files in one."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.paths import data_dir, is_safe_name
from luna_kernel.data.portuguese import fold

t = catalogue(__package__)

_COMPARED = 20_000
"""Sources at most that a name without a match is compared with."""


def place_of(name_or_path: str) -> Path:
    """The folder of a knowledge base that is named (`manuais`) or given as a path (`./kb`, `/tmp/kb`).

    Raises:
        UsageError: neither a safe name nor a path.
    """
    if "/" in name_or_path or name_or_path.startswith((".", "~")):
        return Path(name_or_path).expanduser()
    if not is_safe_name(name_or_path):
        raise UsageError(t("kb.bad_name", name=name_or_path[:80]), hint=t("kb.bad_name.hint"))
    return data_dir() / "knowledge" / name_or_path


def place_for(paths: Sequence[Path]) -> Path:
    """The folder of the knowledge base that belongs to these folders: always the same for the same ones."""
    resolved = [str(path.expanduser().resolve()) for path in paths]
    digest = hashlib.sha256("\n".join(resolved).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    name = re.sub(r"[^a-z0-9]+", "-", fold(Path(resolved[0]).name)).strip("-")[:40] or "docs"
    return data_dir() / "knowledge" / "by-folder" / f"{name}-{digest}"


def matching(patterns: Sequence[str], sources: Sequence[str]) -> list[str]:
    """The sources that a pattern names: a path, a folder, or a glob (`*` also crosses `/`).

    Raises:
        UsageError: a pattern matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        plain = pattern.removeprefix("./").rstrip("/")
        fits = [s for s in sources if s == plain or s.startswith(f"{plain}/") or fnmatch.fnmatchcase(s, plain)]
        if not fits:
            near = nearest(plain, sources)
            text = t("kb.remove.none", pattern=pattern[:200])
            text += " " + t("kb.remove.near", names=", ".join(near)) if near else ""
            raise UsageError(text, hint=t("kb.remove.none.hint"))
        found.update(fits)
    return sorted(found)


def nearest(name: str, sources: Sequence[str], count: int = 3) -> list[str]:
    """The sources that may have been meant: those that hold `name`, else those with a part most like it."""
    wanted = fold(name.strip("*/"))
    if not wanted:
        return []
    holding = [source for source in sources if wanted in fold(source)]
    if holding:
        return sorted(holding, key=len)[:count]
    named: dict[str, list[str]] = {}
    for source in sources[:_COMPARED]:
        place = PurePosixPath(fold(source))
        for part in {str(place), place.stem, *place.parts}:
            named.setdefault(part, []).append(source)
    near = difflib.get_close_matches(wanted, named, n=count, cutoff=0.6)
    return list(dict.fromkeys(source for part in near for source in named[part]))[:count]
