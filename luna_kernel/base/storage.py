"""The small operations under the durable writer: refusals as errors, fsync, temporary names and who still uses them.

A temporary file or folder is called `.NAME.luna-KIND-RANDOM` and lies beside what it will become. Its writer holds a
`flock` on it; the operating system lets go of that lock at the writer's death, however it comes. So an orphan is
known without guessing at process ids: whoever gets the lock may sweep it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from luna_kernel.base.errors import StorageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.base.reasons import reason_of

t = catalogue(__package__)

TEMPORARY = re.compile(r"\.(?P<name>.+)\.luna-(?P<kind>tmp|new|ready|old|gone)-[0-9a-f]{16}", re.DOTALL)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM)
_DISK = (*_FULL, errno.EIO, errno.EROFS, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL, errno.ENOSYS)
_ABANDONED_SECONDS = 24 * 3600.0
_LOCK_SECONDS = 10.0

# (device, inode) of the temporary folders that this process fills now; see `folder_lock`.
_claimed: set[tuple[int, int]] = set()


def size_text(size: int) -> str:
    """A size in bytes as people read it, powers of ten: `12.3 MB`, in Portuguese `12,3 MB`."""
    if size < 1000:
        return f"{size} B"
    value, unit = float(size), "B"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007
        value /= 1000
        if value < 999.95:
            break
    return f"{number_text(value, 1)} {unit}"


def final_path(path: Path) -> Path:
    """`path` with each temporary name in it replaced by the name that it is for: what a person knows."""
    found = (TEMPORARY.fullmatch(part) for part in path.parts)
    return Path(*(match["name"] if match else part for match, part in zip(found, path.parts, strict=True)))


def free_bytes(path: Path) -> int | None:
    """The free bytes of the file system that holds `path`, or would hold it; None where it does not say."""
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            stat = os.statvfs(folder)
            return stat.f_bavail * stat.f_frsize
    return None


def refused(path: Path, error: OSError, *, need: int | None = None) -> StorageError:
    """The `StorageError` for `error`: which file, why, how much is needed and free, what to do."""
    path = final_path(path)
    if error.errno in _FULL:
        free = free_bytes(path)
        known = {"path": path, "free": "?" if free is None else size_text(free)}
        if need is None:
            return StorageError(t("storage.full", **known), hint=t("storage.full.hint"))
        return StorageError(t("storage.full_need", need=size_text(need), **known), hint=t("storage.full.hint"))
    if error.errno == errno.EROFS:
        return StorageError(t("storage.read_only", path=path), hint=t("storage.read_only.hint"))
    if error.errno in _DENIED:
        return StorageError(t("storage.denied", path=path), hint=t("storage.denied.hint"))
    return StorageError(t("storage.failed", path=path, reason=reason_of(error)), hint=t("storage.failed.hint"))


@contextlib.contextmanager
def refusals(path: Path, *, need: int | None = None) -> Iterator[None]:
    """Turns an `OSError` of Luna's own file operations on `path` into a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise refused(path, error, need=need) from error


def disk_refusal(error: BaseException, inside: Path) -> bool:
    """Whether `error`, raised while a caller filled `inside`, is the disk's refusal and not about another file."""
    if not isinstance(error, OSError) or error.errno not in _DISK:
        return False
    return error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(inside)


def let_go(fd: int) -> None:
    """Close a descriptor that only held a lock, or whose bytes are synced: what close says then changes nothing."""
    with contextlib.suppress(OSError):
        os.close(fd)


def real_path(path: str | os.PathLike[str]) -> Path:
    """`path`, or what it points to when it is a symbolic link: the link stays, its target is replaced."""
    path = Path(path)
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def sync(fd: int) -> None:
    """Everything written to the open file or folder `fd` is on the disk when this returns."""
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone leaves the data in the drive's cache
    if full is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, full)
            return
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """The names in `folder` (created, renamed, removed) are on the disk when this returns."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders, some network ones
            raise
    finally:
        let_go(fd)


def temporary(path: Path, kind: str) -> Path:
    """A fresh temporary name beside `path`. Of a file only the head of its name, for the limit of 255 bytes."""
    name = path.name[:40] if kind == "tmp" else path.name
    return path.with_name(f".{name}.luna-{kind}-{os.urandom(8).hex()}")


def claim(fd: int) -> bool | None:
    """Take the lock of an open file or folder without waiting.

    Returns:
        True: it is ours until `fd` closes. False: another holds it. None: this file system has no locks.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def new_file(path: Path) -> tuple[int, Path]:
    """A fresh temporary file beside `path`, open for reading and writing and claimed: (descriptor, its path)."""
    while True:
        temp = temporary(path, "tmp")
        fd = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if claim(fd) is not False and os.fstat(fd).st_nlink:
                return fd, temp
        except BaseException:
            let_go(fd)
            with contextlib.suppress(OSError):
                temp.unlink()
            raise
        let_go(fd)  # a sweeper was between our open and our lock, and takes it for an orphan


@contextlib.contextmanager
def new_folder(path: Path, kind: str) -> Iterator[Path]:
    """A fresh temporary folder beside `path`, claimed while the context lasts; it is not removed at the end."""
    while True:
        temp = temporary(path, kind)
        temp.mkdir(0o700)
        fd = -1
        try:
            fd = os.open(temp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held = claim(fd) is not False and temp.exists()
        except BaseException as error:
            if fd >= 0:
                let_go(fd)
            with contextlib.suppress(OSError):
                temp.rmdir()
            if isinstance(error, FileNotFoundError):
                continue  # swept between our mkdir and our open
            raise
        if held:
            break
        let_go(fd)
    stat = os.fstat(fd)
    _claimed.add((stat.st_dev, stat.st_ino))
    try:
        yield temp
    finally:
        _claimed.discard((stat.st_dev, stat.st_ino))
        let_go(fd)


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """One process at a time swaps or recovers names in `folder`. Waits up to ten seconds, then `StorageError`."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stat = os.fstat(fd)
        # A temporary folder that this process fills is locked already, by the writer around us.
        if (stat.st_dev, stat.st_ino) not in _claimed:
            deadline = time.monotonic() + _LOCK_SECONDS
            while claim(fd) is False:
                if time.monotonic() > deadline:
                    raise StorageError(t("storage.busy", path=folder), hint=t("storage.busy.hint"))
                time.sleep(0.005)
        yield
    finally:
        let_go(fd)


def delete_tree(path: Path) -> None:
    """Delete a folder and all in it, or a file; links are removed, not followed. What is gone already is no error."""
    import shutil

    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    while True:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            if path.exists():
                continue  # another sweeper took a file that we were about to take
        return


def delete_orphan(path: Path) -> bool:
    """Delete a temporary file or folder if its writer is dead; False if it lives, or cannot be known yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # gone meanwhile, or another user's
    try:
        held = claim(fd)
        if held is False or (held is None and time.time() - os.fstat(fd).st_mtime < _ABANDONED_SECONDS):
            return False
        delete_tree(path)  # while we hold its lock: a writer that has just created it sees that and takes another name
    finally:
        let_go(fd)
    return True
