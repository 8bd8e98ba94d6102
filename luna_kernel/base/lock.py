"""One process at a time: a lock file that its holder's death opens."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from luna_kernel.base.errors import LunaError, StorageError, UsageError
from luna_kernel.base.folders import make_folder
from luna_kernel.base.messages import catalogue
from luna_kernel.base.storage import claim, let_go, refusals

t = catalogue(__package__)


def boot_id() -> str:
    """What tells this start of this machine from every other; empty where the system does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


@contextlib.contextmanager
def lock(path: str | os.PathLike[str], *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` while the block runs; excludes other processes and other threads of this one.

    The operating system frees the lock when its holder dies, so a stale file is no obstacle; the file stays.

    Args:
        path: the lock file; made with its folders if missing.
        wait: seconds to wait for another holder.

    Raises:
        UsageError: another holds it; the text says who.
        StorageError: the file cannot be made, or its file system has no locks.
    """
    path = Path(path)
    with refusals(path):
        make_folder(path.parent)
    fd = _acquire(path, time.monotonic() + wait)
    try:
        holder = os.getpid()
        with contextlib.suppress(OSError):  # who holds it is for people; the lock itself needs no byte of a full disk
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps({"pid": holder, "boot": boot_id(), "host": os.uname().nodename}).encode(), 0)
        try:
            yield
        finally:
            if os.getpid() == holder:  # a forked child that leaves the block does not speak for its parent
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, 0)
    finally:
        let_go(fd)


def _acquire(path: Path, deadline: float) -> int:
    while True:
        with refusals(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            held = claim(fd)
            if held and _is_still(fd, path):
                return fd
            if held is None or (held is False and time.monotonic() >= deadline):
                raise _not_acquired(path, fd, held)  # noqa: TRY301 - closes `fd` below
        except BaseException:
            let_go(fd)
            raise
        let_go(fd)
        if held is False:
            time.sleep(0.01)


def _not_acquired(path: Path, fd: int, held: bool | None) -> LunaError:
    if held is None:
        return StorageError(t("lock.unsupported", path=path), hint=t("lock.unsupported.hint"))
    return UsageError(t("lock.held", path=path, who=_holder(fd)), hint=t("lock.held.hint"))


def _is_still(fd: int, path: Path) -> bool:
    """Whether `path` still names the file that `fd` has open: someone may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _holder(fd: int) -> str:
    try:
        known = json.loads(os.pread(fd, 4096, 0))
        who = t("lock.process", pid=int(known["pid"]))
        return who if known["boot"] == boot_id() else t("lock.elsewhere", who=who, host=str(known["host"])[:64])
    except (OSError, ValueError, KeyError, TypeError):
        return t("lock.somebody")
