"""Memory that was freed, kept for the next step of training instead of given back to the system.

glibc maps every piece above a threshold of at most 32 MiB anew and unmaps it when it is freed, so each step of training
takes the pages of its large gradients and activations from the system again, which clears them first. Kept, the same
pages serve every step. Only glibc has this; elsewhere nothing is changed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's `mallopt`, see mallopt(3)."""
USUAL = {MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}
"""What glibc's own thresholds grow to in a process that frees large pieces; once set they no longer move."""
KEEPING = dict.fromkeys(USUAL, (1 << 31) - 1)


@contextmanager
def keep_freed_memory() -> Iterator[bool]:
    """Keep what is freed inside the block, and give it back at its end; yields whether it does.

    Thresholds that the user has set by an environment variable (`MALLOC_…`, `GLIBC_TUNABLES`) stay. Not nested, and one
    block at a time: the thresholds are the whole process's.
    """
    asked = any(name.startswith("MALLOC_") and "THRESHOLD" in name for name in os.environ)
    library = None if asked or "malloc" in os.environ.get("GLIBC_TUNABLES", "") else _glibc()
    if library is None:
        yield False
        return
    kept = _set(library, KEEPING)
    try:
        yield kept
    finally:
        _set(library, USUAL)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows takes no None
        return None
    needed = ("gnu_get_libc_version", "mallopt", "malloc_trim")
    return library if all(hasattr(library, name) for name in needed) else None


def _set(library: ctypes.CDLL, thresholds: dict[int, int]) -> bool:
    taken = [library.mallopt(name, value) for name, value in thresholds.items()]
    return taken == [1] * len(taken)
