"""From folders to documents: which files there are, which have changed, and what reading them gave.

Reading happens in the kernel's bounded worker, through the registered readers; a file that cannot be read is reported
with its reason and hinders no other.
"""

from __future__ import annotations

import glob
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from luna_kernel.base.errors import UsageError
from luna_kernel.base.integrity import hash_file
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of
from luna_kernel.base.storage import size_text
from luna_kernel.contracts.data import Document, ReadResult, Record
from luna_kernel.contracts.knowledge import FileState
from luna_kernel.data.reading import FileReading, read_files, readers_by_extension
from luna_kernel.plugins.registry import Registry

t = catalogue(__package__)

_RACY_NS = 2_000_000_000
"""A file that was changed so shortly before it was looked at may have changed again within the clock's grain."""


ReadFile = tuple[FileState, list[Document], list[str]]
"""A file, its documents, and the reasons why not all of it could be read."""


@dataclass
class Listing:
    """The files of the given folders."""

    files: dict[str, Path] = field(default_factory=dict)
    """Readable files by source, in the order of their names."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Files that no reader takes, with the reason."""


def list_files(paths: Sequence[Path], registry: Registry) -> Listing:
    """All files below the folders and the files named, hidden ones left out.

    A link to a file is that file, wherever it lies: who put it there meant it. A link to a folder is followed where it
    is named itself, not where it lies below a folder or is met by a pattern, so that none leads in a circle.

    Args:
        paths: folders, files, and patterns (`docs/**/*.md`) that name such.
        registry: where the readers are.

    Raises:
        UsageError: a path does not exist or cannot be listed, a pattern matches nothing.
    """
    known = readers_by_extension(registry)
    listing = Listing()
    for root in paths:
        for source, path in _below(root, single=len(paths) == 1):
            unique = source if source not in listing.files else str(path.resolve())
            if path.suffix.lower() not in known:
                listing.skipped[unique] = t("read.no_reader", formats=" ".join(sorted(known)))
            else:
                listing.files[unique] = path
    return listing


def check_path(path: Path) -> None:
    """Refuse what names no file and no folder.

    Raises:
        UsageError: it does not exist; a pattern matches nothing.
    """
    if path.exists():
        return
    if not glob.has_magic(str(path)):
        raise UsageError(t("docs.missing", path=path), hint=t("docs.missing.hint"))
    if next(_matches(path), None) is None:
        raise UsageError(t("docs.no_match", path=path), hint=t("docs.missing.hint"))


def _fixed(pattern: Path) -> Path:
    """The folder before the first part of a pattern that is none of a path."""
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.expanduser().parts))


def _matches(pattern: Path) -> Iterator[Path]:
    """What a pattern names; `**` enters no link to a folder, which `glob.iglob` would, forty times in a circle."""
    fixed = _fixed(pattern)
    return fixed.glob(str(pattern.expanduser().relative_to(fixed)))


def _below(root: Path, *, single: bool) -> Iterator[tuple[str, Path]]:
    """(source, path) of the files at or below `root`, which may be a pattern; each path once."""
    check_path(root)
    if root.is_file():
        yield root.name, root
    elif root.is_dir():
        name = "" if single else f"{root.resolve().name}/"
        yield from ((name + path.relative_to(root).as_posix(), path) for path in _walk(root))
    else:
        fixed = _fixed(root)
        name = "" if single else f"{fixed.resolve().name}/"
        found: set[Path] = set()
        for match in _matches(root):
            found.update(_walk(match) if match.is_dir() and not match.is_symlink() else [match])
        for path in sorted(found):
            inside = path.relative_to(fixed)
            if path.is_file() and not any(part.startswith(".") for part in inside.parts):
                yield name + inside.as_posix(), path


def _walk(root: Path) -> Iterator[Path]:
    """The files below a folder."""

    def refuse(error: OSError) -> None:
        raise UsageError(t("docs.unreadable", path=error.filename, reason=reason_of(error))) from error

    for place, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path


@dataclass
class Changes:
    """How the files differ from what the knowledge base knows."""

    unchanged: list[str] = field(default_factory=list)
    touched: list[FileState] = field(default_factory=list)
    """The same content under new stamps."""
    new: list[FileState] = field(default_factory=list)
    changed: list[FileState] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def compare(listing: Listing, known: dict[str, FileState], max_bytes: int, *, anew: bool = False) -> Changes:
    """Sort the files into unchanged, touched, new, changed and removed, by stamps and content hash.

    Larger files than `max_bytes` are unreadable, and what was known of them is removed. With `anew` all that are known
    count as changed.
    """
    changes = Changes(removed=[source for source in known if source not in listing.files])
    for source, path in listing.files.items():
        old = known.get(source)
        try:
            status = path.stat()
            stamps = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            same = old is not None and not anew and stamps == (old.size, old.mtime_ns, old.ctime_ns)
            if same and old is not None and _settled(old):
                changes.unchanged.append(source)
                continue
            if status.st_size > max_bytes:
                limit = size_text(max_bytes)
                changes.unreadable[source] = t("read.too_large", size=size_text(status.st_size), limit=limit)
                if old is not None:
                    changes.removed.append(source)
                continue
            state = FileState(source, str(path.absolute()), hash_file(path), *stamps, seen_ns=time.time_ns())
        except OSError as error:
            changes.unreadable[source] = reason_of(error)
            continue
        if old is None:
            changes.new.append(state)
        elif old.sha256 == state.sha256 and not anew:
            changes.touched.append(state)
        else:
            changes.changed.append(state)
    return changes


def _settled(state: FileState) -> bool:
    return max(state.mtime_ns, state.ctime_ns) + _RACY_NS < state.seen_ns


def read(states: Iterable[FileState], registry: Registry, *, max_bytes: int, mend_mojibake: bool) -> Iterator[ReadFile]:
    """What each file gave; see `read_files`."""
    by_path = {Path(state.path): state for state in states}
    options = {"max_bytes": max_bytes, "mend_mojibake": mend_mojibake}
    for reading in read_files(by_path, registry, skip_bad=True, search=True, **options):
        state = by_path[reading.path]
        yield state, documents_of(reading, state.source), _reasons(reading, state.source)


def documents_of(reading: FileReading, source: str) -> list[Document]:
    """The documents of a file; of tables and dialogues each record becomes one, with its line."""
    result: ReadResult = reading.result
    path = str(reading.path)

    def named(place: str) -> str:
        """The source, and for a file in an archive its name there."""
        return source + _clean(place.removeprefix(path)) if place.startswith(f"{path}/") else source

    found = [Document(_clean(d.text), named(d.source), _clean(d.title), d.metadata) for d in result.documents]
    for record in result.records:
        text = _clean(_record_text(record))
        if text.strip():
            place, _, number = record.place.rpartition(":")
            metadata = {"line": int(number)} if number.isdigit() else {}
            found.append(Document(text, named(place), Path(named(place)).stem, metadata))
    return found


def _record_text(record: Record) -> str:
    if record.text is not None:
        return record.text
    return "\n\n".join(message.content for message in record.messages if message.role != "system")


def _clean(text: str) -> str:
    """Without halves of characters and NUL, which SQLite and terminals cannot carry."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _reasons(reading: FileReading, source: str) -> list[str]:
    """Why what could not be read could not, each with its place in the file."""
    path = str(reading.path)
    found = []
    for bad in reading.result.bad:
        reason, inside = bad.reason.removeprefix(f"{path}: "), bad.place.removeprefix(path)
        line = inside.removeprefix(":")
        if line.isdigit():
            reason = t("read.line", line=line, reason=reason)
        elif inside:
            reason = f"{inside.lstrip(':/')}: {reason}"
        found.append(reason)
    return found
