"""The one writer: files that are whole or absent, on the disk when the call returns, and never torn.

Every module of Luna writes through this one (a test holds it). A call that returns has its bytes on the disk: a power
cut loses nothing that was acknowledged. A call that fails leaves what was there before. A process that is killed
leaves at most orphans under temporary names, which `recover` and `sweep` remove at the next start.

The method is the field's own: a temporary file beside the target, write, fsync, rename, fsync of the folder.
For folders see `luna_kernel.base.folders`, for SQLite `luna_kernel.base.database`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from luna_kernel.base.database import make_schema, open_database, transaction
from luna_kernel.base.folders import make_folder, recover, remove_folder, replace_folder, sweep
from luna_kernel.base.lock import lock
from luna_kernel.base.storage import (
    claim,
    delete_tree,
    disk_refusal,
    let_go,
    new_file,
    new_folder,
    real_path,
    refusals,
    refused,
    sync,
    sync_folder,
)

__all__ = [
    "append_line",
    "create_file",
    "fsync_file",
    "lock",
    "make_folder",
    "make_schema",
    "open_database",
    "recover",
    "remove_file",
    "remove_folder",
    "repair_jsonl",
    "replace_folder",
    "sweep",
    "transaction",
    "write_bytes",
    "write_json",
    "write_text",
    "write_with",
]

AnyPath = str | os.PathLike[str]
_BUFFER = 1 << 20
_TAIL = 1 << 16


@contextlib.contextmanager
def create_file(path: AnyPath, *, private: bool = False, need: int | None = None) -> Iterator[BinaryIO]:
    """A binary file to write, read and seek in; it takes the place of `path` when the block ends well.

    Args:
        path: the file's final place; missing folders are made. A symbolic link is followed and stays.
        private: mode 0600 instead of 0644, whatever the umask.
        need: the bytes that will be written, if known, for the message of a full disk.

    Raises:
        StorageError: the disk refused; `path` is as it was, or holds the new content whole if only the last
            confirmation failed.
    """
    path = real_path(path)
    with refusals(path, need=need):
        make_folder(path.parent)
        fd, temp = new_file(path)
    filled = False
    try:
        with os.fdopen(fd, "w+b", buffering=_BUFFER) as file:
            yield file
            filled = True
            file.flush()
            os.fchmod(fd, 0o600 if private else 0o644)
            sync(fd)
            temp.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temp.unlink()
        if isinstance(error, OSError) and (filled or disk_refusal(error, temp)):
            raise refused(path, error, need=need) from error
        raise


def write_bytes(path: AnyPath, data: bytes | bytearray | memoryview, *, private: bool = False) -> None:
    """Replace the file `path` by `data`; see `create_file`."""
    with create_file(path, private=private, need=memoryview(data).nbytes) as file:
        file.write(data)


def write_text(path: AnyPath, text: str, *, private: bool = False) -> None:
    """Replace the file `path` by `text` in UTF-8, newlines as they are; see `create_file`."""
    write_bytes(path, text.encode("utf-8"), private=private)


def write_json(path: AnyPath, obj: object, *, private: bool = False) -> None:
    """Replace the file `path` by `obj` as JSON: UTF-8, two spaces, keys in their order, a newline at the end.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
        StorageError: see `create_file`.
    """
    write_text(path, json.dumps(obj, ensure_ascii=False, indent=2, allow_nan=False) + "\n", private=private)


def write_with(path: AnyPath, save: Callable[[str], object], *, private: bool = False) -> None:
    """Let a library save into a temporary place, then put the file at `path`; see `create_file`.

    Args:
        path: the file's final place.
        save: called with the path (str) that it shall write; the file is named as `path` is, in a folder of its own,
            so whatever else the library leaves there is swept away.
        private: mode 0600 instead of 0644.
    """
    path = real_path(path)
    with contextlib.ExitStack() as stack:
        with refusals(path):
            make_folder(path.parent)
            folder = stack.enter_context(new_folder(path, "tmp"))
        try:
            save(str(folder / path.name))
            with refusals(path):
                fsync_file(folder / path.name, private=private)
                (folder / path.name).replace(path)
                sync_folder(path.parent)
        except OSError as error:
            if disk_refusal(error, folder):
                raise refused(path, error) from error
            raise
        finally:
            with contextlib.suppress(OSError):
                delete_tree(folder)


def fsync_file(path: AnyPath, *, private: bool | None = None) -> None:
    """The bytes of `path`, written by whomever, are on the disk when this returns.

    Args:
        path: the file.
        private: set its mode to 0600 (True) or 0644 (False), or leave it (None).
    """
    path = Path(path)
    with refusals(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if private is not None:
                os.fchmod(fd, 0o600 if private else 0o644)
            sync(fd)
        finally:
            let_go(fd)


def remove_file(path: AnyPath) -> bool:
    """Remove a file (of a symbolic link: the link) so that it stays removed; False if there was none."""
    path = Path(path)
    with refusals(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        sync_folder(path.parent)
    return True


def append_line(path: AnyPath, text: str, *, durable: bool = False) -> None:
    """Append one line to a log (JSONL): all of it or nothing, also with several processes writing.

    A torn last line that a killed writer left is cut off first.

    Args:
        path: the log; made with its folders if missing.
        text: the line, without its newline.
        durable: wait for the disk. Without it a power cut may lose the last seconds, a killed process nothing.

    Raises:
        ValueError: `text` has a newline in it.
        StorageError: the disk refused; the log is as it was.
    """
    if "\n" in text:
        raise ValueError("append_line takes one line, without its newline")
    path = real_path(path)
    line = text.encode("utf-8") + b"\n"
    with refusals(path, need=len(line)):
        make_folder(path.parent)
        with _log(path, os.O_CREAT) as fd:
            size = os.fstat(fd).st_size
            if size:
                _mend(fd, size)
                size = os.fstat(fd).st_size
            try:
                _write_all(fd, line)
                if durable:
                    sync(fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, size)
                raise
        if durable and not size:
            sync_folder(path.parent)


def repair_jsonl(path: AnyPath) -> int:
    """Cut a torn last line off a log. A last record that is whole and only lacks its newline gets it.

    Returns:
        How many bytes were dropped; 0 also if there is no such file.
    """
    path = real_path(path)
    with refusals(path):
        try:
            with _log(path) as fd:
                dropped = _mend(fd, os.fstat(fd).st_size)
                sync(fd)
                return dropped
        except FileNotFoundError:
            return 0


@contextlib.contextmanager
def _log(path: Path, flags: int = 0) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o644)
    try:
        while claim(fd) is False:
            os.sched_yield() if hasattr(os, "sched_yield") else None
        yield fd
    finally:
        let_go(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _mend(fd: int, size: int) -> int:
    """Make the log `fd` of `size` bytes end in a newline; returns the bytes dropped."""
    tail, start = b"", size
    while start and b"\n" not in tail:
        begin = max(0, start - _TAIL)
        tail = os.pread(fd, start - begin, begin) + tail
        start = begin
    torn = tail.rpartition(b"\n")[2]
    if not torn:
        return 0
    try:
        whole = isinstance(json.loads(torn), dict | list)  # a number may have lost its last digits
    except (ValueError, RecursionError):
        whole = False
    if whole:
        _write_all(fd, b"\n")
        return 0
    os.ftruncate(fd, size - len(torn))
    return len(torn)
