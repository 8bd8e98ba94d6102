"""From what a person names (files, folders, patterns) to documents and records.

Each file's bytes are read here and parsed in the bounded worker, so a damaged or hostile file costs one error. A fault
stops with the file and the line; with `skip_bad` reading goes on, and every fault is counted and kept.
"""

from __future__ import annotations

import glob
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from luna_kernel.base.encodings import mend
from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of
from luna_kernel.base.storage import size_text
from luna_kernel.base.worker import ParserWorker
from luna_kernel.contracts.data import BadRecord, Reader, ReadResult
from luna_kernel.plugins.registry import Component, Registry

t = catalogue(__package__)

PARSE = "luna_kernel.data.reading:parse"
MAX_BYTES = 64_000_000
"""Larger files are refused unless another limit is given, or their reader works line by line."""
_WORKER_MEMORY, _WORKER_RESULT = 1 << 30, 256_000_000
"""Bounds of the worker for files up to `MAX_BYTES`; they grow with a higher limit."""
PIECE_BYTES = 4 << 20
SECONDS = 60.0
SHOWN_FAULTS = 5


@dataclass(frozen=True)
class FileReading:
    """What one file, or one piece of a large one, gave."""

    path: Path
    source: str
    result: ReadResult


def readers_by_extension(registry: Registry) -> dict[str, Component]:
    """The reader of each file extension.

    Raises:
        UsageError: two readers claim one extension.
    """
    found: dict[str, Component] = {}
    for component in registry.of_kind("reader"):
        for extension in cast("type[Reader]", component.load()).extensions:
            other = found.setdefault(extension.lower(), component)
            if other is not component:
                fields = {"extension": extension, "first": other.plugin, "second": component.plugin}
                raise UsageError(t("read.two_readers", **fields))
    return found


def find_files(paths: Iterable[str | Path], extensions: Iterable[str]) -> list[Path]:
    """The files that `paths` name: files, folders (searched below, hidden ones left out), patterns with `*`.

    Returns:
        Each file once, in the order of `paths`, sorted within a folder or pattern.

    Raises:
        UsageError: a path does not exist, a folder or pattern has no readable file, or a file's format has no reader.
    """
    known = sorted(extensions)
    found: dict[Path, None] = {}
    for item in paths:
        path = Path(item).expanduser()
        hint = t("read.formats", formats=" ".join(known))
        if path.is_dir():
            inside = sorted(
                p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in known and not _hidden(p, path)
            )
            if not inside:
                raise UsageError(t("read.empty_folder", path=path), hint=hint)
            found.update(dict.fromkeys(inside))
        elif path.exists():
            if path.suffix.lower() not in known:
                raise UsageError(t("read.no_reader", path=path), hint=hint)
            found[path] = None
        elif glob.has_magic(str(path)):
            matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns
            matches = [p for p in matches if p.is_file() and p.suffix.lower() in known]
            if not matches:
                raise UsageError(t("read.no_match", pattern=item), hint=hint)
            found.update(dict.fromkeys(matches))
        else:
            raise UsageError(t("read.missing", path=path), hint=t("read.missing.hint"))
    return list(found)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def read_files(
    files: Iterable[Path],
    registry: Registry,
    *,
    root: Path | None = None,
    skip_bad: bool = False,
    whole: bool = True,
    search: bool = False,
    mend_mojibake: bool = False,
    max_bytes: int = MAX_BYTES,
    on_bad: Callable[[BadRecord], None] | None = None,
) -> Iterator[FileReading]:
    """Read files one by one, lazily.

    Args:
        files: as `find_files` gives them.
        registry: where the readers are.
        root: sources are named relative to it; None keeps the paths as given.
        skip_bad: report faults to `on_bad` and in the results, and go on.
        whole: each document holds its whole file. Without it, files of line-based formats may be of any size and come
            in pieces.
        search: the text is wanted for search; see `Reader.search`.
        mend_mojibake: put right what was UTF-8 and had been read as something else; see `encodings.mend`.
        max_bytes: size of a file that is read at once, at most.
        on_bad: called for each fault when `skip_bad`.

    Raises:
        UsageError: a fault and not `skip_bad`; the text names the file, the line and the reason.
    """
    readers = readers_by_extension(registry)
    others = {extension: component.target for extension, component in readers.items()}
    scale = max(1.0, max_bytes / MAX_BYTES)
    bounds = {"memory": int(scale * _WORKER_MEMORY), "max_result": int(scale * _WORKER_RESULT)}
    with ParserWorker(allowed=[PARSE], **bounds) as worker:
        for path in files:
            source = path.relative_to(root).as_posix() if root is not None else str(path)
            component = readers[path.suffix.lower()]
            piecewise = not whole and cast("type[Reader]", component.load()).piecewise
            pieces = _pieces(path, max_bytes, piecewise=piecewise)
            parsed = _parsed(worker, component, pieces, source, others, search=search, skip_bad=skip_bad)
            for result in parsed:
                if result.bad and not skip_bad:
                    raise _faults(result.bad)
                if on_bad is not None:
                    for fault in result.bad:
                        on_bad(fault)
                yield FileReading(path, source, _mended(result) if mend_mojibake else result)


def read_path(
    paths: str | Path | Iterable[str | Path], registry: Registry, *, skip_bad: bool = False, root: Path | None = None
) -> ReadResult:
    """Everything that files, folders or patterns hold, at once; see `find_files` and `read_files`."""
    if isinstance(paths, str | Path):
        paths = [paths]
    total = ReadResult()
    for reading in read_files(
        find_files(paths, readers_by_extension(registry)), registry, root=root, skip_bad=skip_bad
    ):
        total.documents += reading.result.documents
        total.records += reading.result.records
        total.bad += reading.result.bad
    return total


def _parsed(
    worker: ParserWorker,
    component: Component,
    pieces: Iterator[tuple[bytes, int]],
    source: str,
    others: Mapping[str, str],
    *,
    search: bool,
    skip_bad: bool,
) -> Iterator[ReadResult]:
    """What each piece of a file gave."""
    try:
        for data, lines_before in pieces:
            text = data.decode("latin-1")
            answer = worker.call(PARSE, component.target, text, source, others, search, seconds=SECONDS)
            yield _shift(ReadResult.from_json(answer), source, lines_before)
    except LunaError as error:
        if not skip_bad:
            if source in error.text:
                raise
            raise type(error)(f"{source}: {error.text}", hint=error.hint) from error
        yield ReadResult(bad=[BadRecord(source, error.text)])


def _pieces(path: Path, max_bytes: int, *, piecewise: bool) -> Iterator[tuple[bytes, int]]:
    """(bytes, lines before them) of a file: all of it, or pieces cut after line ends."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4)
            file.seek(0)
            wide = head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head  # UTF-16: a line end is two bytes
            if not piecewise or wide or size <= PIECE_BYTES:
                if size > max_bytes:
                    text = t("read.too_large", path=path, size=size_text(size), limit=size_text(max_bytes))
                    raise UsageError(text, hint=t("read.too_large.hint"))
                yield file.read(), 0
                return
            lines = 0
            while data := file.read(PIECE_BYTES):
                data += file.readline(max_bytes)
                yield data, lines
                lines += data.count(b"\n")
    except OSError as error:
        reason = reason_of(error)
        raise UsageError(t("read.unreadable", path=path, reason=reason), hint=t("read.unreadable.hint")) from error


def _shift(result: ReadResult, source: str, lines: int) -> ReadResult:
    """The same result with line numbers counted from the start of the file."""
    if not lines:
        return result

    def moved(place: str) -> str:
        number = place[len(source) + 1 :]
        return f"{source}:{int(number) + lines}" if number.isdigit() else place

    result.records = [replace(item, place=moved(item.place)) for item in result.records]
    result.bad = [replace(item, place=moved(item.place)) for item in result.bad]
    return result


def _mended(result: ReadResult) -> ReadResult:
    """The same result with its texts put right; see `encodings.mend`."""
    result.documents = [replace(item, text=mend(item.text), title=mend(item.title)) for item in result.documents]
    for place, record in enumerate(result.records):
        messages = tuple(replace(message, content=mend(message.content)) for message in record.messages)
        result.records[place] = replace(record, text=record.text and mend(record.text), messages=messages)
    return result


def _faults(bad: list[BadRecord]) -> UsageError:
    lines = [f"{fault.place}: {fault.reason}" for fault in bad[:SHOWN_FAULTS]]
    if len(bad) > SHOWN_FAULTS:
        lines.append(t("read.more_bad", count=len(bad) - SHOWN_FAULTS))
    return UsageError("\n".join(lines), hint=t("read.bad.hint"))


def parse(target: str, data: str, source: str, others: Mapping[str, str], search: bool) -> Mapping[str, Any]:
    """Parse one file's bytes; runs in the worker. `data` holds each byte as the character of its number."""
    module, _, name = target.partition(":")
    reader: Reader = getattr(importlib.import_module(module), name)()
    reader.others, reader.search = others, search
    return reader.read(data.encode("latin-1"), source).to_json()
