"""Folders that are whole: the old one or the new one, never a mixture, whenever the process or the power dies.

A new folder is filled under a temporary name, every file in it fsynced, and then put in the old one's place. Where
the system can exchange two names in one step (Linux `renameat2`) there is no moment without the folder. Elsewhere the
new one is first renamed to `…luna-ready-…`, which says that all of it is on the disk; then the old goes aside and the
ready one takes its name. `recover` finishes or undoes what a death in between left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from luna_kernel.base.storage import (
    TEMPORARY,
    delete_orphan,
    delete_tree,
    disk_refusal,
    folder_lock,
    let_go,
    new_folder,
    real_path,
    refusals,
    refused,
    sync,
    sync_folder,
    temporary,
)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def make_folder(path: str | os.PathLike[str], *, private: bool = False) -> None:
    """Make a folder and the missing ones above it, durably; one that exists is left as it is.

    Args:
        path: the folder.
        private: mode 0700 instead of 0755 for those that are made.
    """
    path = Path(path)
    if path.is_dir():
        return
    with refusals(path):
        missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
        for folder in reversed(missing):
            try:
                folder.mkdir()
            except FileExistsError:
                if not folder.is_dir():
                    raise
                continue
            folder.chmod(0o700 if private else 0o755)
            sync_folder(folder.parent)


@contextlib.contextmanager
def replace_folder(path: str | os.PathLike[str], *, marker: str = "luna.json", private: bool = False) -> Iterator[Path]:
    """A new folder to fill; it takes the place of `path` as a whole when the block ends well.

    Args:
        path: the folder's final place; it may exist or not. A symbolic link is followed and stays.
        marker: the file that makes the folder complete, which the caller writes last.
        private: modes 0600 and 0700 instead of 0644 and 0755.

    Yields:
        The new folder. Fill it with `durable.write_*`, or with any library: every file is fsynced at the end.

    Raises:
        ValueError: the block ended without the marker.
        StorageError: the disk refused; `path` is as it was, or is the new folder whole if only the last
            confirmation failed.
    """
    path = real_path(path)
    committed = False
    leftover: Path | None = None
    try:
        with contextlib.ExitStack() as stack:
            with refusals(path):
                make_folder(path.parent)
                new = stack.enter_context(new_folder(path, "new"))
            try:
                yield new
            except OSError as error:
                if disk_refusal(error, new):
                    raise refused(path, error) from error
                raise
            _ask_marker(new / marker, path)
            with refusals(path):
                _settle(new, private=private)
                leftover = _swap(new, path)
                committed = True
                sync_folder(path.parent)
    except BaseException:
        if not committed:
            # The claim on the new folder is gone with its context: it is an orphan, and recovering takes it away.
            with contextlib.suppress(Exception):
                recover(path, marker=marker)
        raise
    if leftover is not None:
        with contextlib.suppress(OSError):  # the new one is safe; what cannot be deleted now is swept later
            delete_tree(leftover)


def _ask_marker(marker: Path, path: Path) -> None:
    if not marker.is_file():
        raise ValueError(f"replace_folder({path.name!r}): the block ended without the marker {marker.name!r}")


def remove_folder(path: str | os.PathLike[str]) -> bool:
    """Remove a folder: first its name in one step, then its content; False if there was none.

    A symbolic link is removed, not what it points to.
    """
    path = Path(path)
    with refusals(path):
        if path.is_symlink():
            path.unlink()
            sync_folder(path.parent)
            return True
        grave = temporary(path, "gone")
        try:
            path.rename(grave)
        except FileNotFoundError:
            return False
        sync_folder(path.parent)
        delete_tree(grave)
    return True


def recover(path: str | os.PathLike[str], *, marker: str | None = None) -> int:
    """Finish or undo an interrupted `replace_folder(path)` and sweep what dead writers left; call before opening.

    Temporary folders of living processes are left alone. Nothing happens where nothing was interrupted.

    Args:
        path: the folder (or file) that is about to be opened; it need not exist.
        marker: as given to `replace_folder`: a ready folder without it is not put in place.

    Returns:
        How many orphans were removed.
    """
    path = real_path(path)
    removed = _recover(path.parent, path.name, marker)
    return removed + sweep(path) if path.is_dir() and os.access(path, os.W_OK) else removed


def sweep(parent: str | os.PathLike[str]) -> int:
    """Remove what dead writers left directly in the folder `parent`, and finish interrupted swaps there.

    Returns:
        How many orphans were removed.
    """
    return _recover(Path(parent), None, None)


def _recover(parent: Path, only: str | None, marker: str | None) -> int:
    if not _orphans(parent, only):
        return 0
    with refusals(parent):
        with folder_lock(parent):  # so a living process is not in the middle of a swap
            orphans = _orphans(parent, only)
            for name in {name for name, kind, _ in orphans if kind in ("ready", "old")}:
                _finish(parent / name, [orphan for orphan in orphans if orphan[0] == name], marker)
            sync_folder(parent)
        removed = 0
        for name, kind, path in orphans:
            needed = kind in ("ready", "old") and not os.path.lexists(parent / name)
            if not needed and os.path.lexists(path):
                with contextlib.suppress(OSError):  # what cannot be deleted, on a read-only disk, is in nobody's way
                    removed += delete_orphan(path)
        if removed:
            sync_folder(parent)
    return removed


def _orphans(parent: Path, only: str | None) -> list[tuple[str, str, Path]]:
    """(name, kind, path) of each temporary name in `parent`."""
    try:
        names = os.listdir(parent)  # noqa: PTH208 - called before every opening: three times as quick as iterdir
    except OSError:
        return []
    found = []
    for name in names:
        match = TEMPORARY.fullmatch(name) if ".luna-" in name else None
        if match is None:
            continue
        whose, kind = match["name"], match["kind"]
        if only is None or whose == (only[:40] if kind == "tmp" else only):
            found.append((whose, kind, parent / name))
    return found


def _finish(path: Path, orphans: list[tuple[str, str, Path]], marker: str | None) -> None:
    """Give a folder that a dead swap left without its name the name back: the ready one's, else the old one's."""
    if os.path.lexists(path):
        return
    for wanted in ("ready", "old"):
        candidates = [
            found
            for _, kind, found in orphans
            if kind == wanted and (kind == "old" or marker is None or (found / marker).is_file())
        ]
        if candidates:
            max(candidates, key=lambda found: found.stat().st_mtime_ns).rename(path)
            return


def _settle(folder: Path, *, private: bool) -> None:
    """Every file and folder below `folder` on the disk, with its modes."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            file = Path(place, name)
            if file.is_symlink():
                continue
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fchmod(fd, 0o600 if private else 0o644)
                sync(fd)
            finally:
                let_go(fd)
        Path(place).chmod(0o700 if private else 0o755)
        sync_folder(Path(place))


def _swap(new: Path, path: Path) -> Path | None:
    """Give `new` the name `path`. Returns where the old folder is now, if there was one."""
    with folder_lock(path.parent):
        if not os.path.lexists(path):
            new.rename(path)
            return None
        if _exchange(new, path):
            return new
        ready, old = temporary(path, "ready"), temporary(path, "old")
        new.rename(ready)
        sync_folder(path.parent)
        path.rename(old)
        try:
            ready.rename(path)
        except OSError:
            old.rename(path)
            raise
        return old


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system cannot.

    Raises:
        OSError: it can, and refused.
    """
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))
