"""Why the operating system refused, in the user's language."""

from __future__ import annotations

import errno

from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

_KNOWN = ("EACCES", "EPERM", "ENOENT", "EISDIR", "ENOTDIR", "ENOSPC", "EDQUOT", "EROFS", "EIO", "EEXIST", "EMFILE",
          "ENAMETOOLONG", "ELOOP", "EBUSY", "EFBIG", "ENOTEMPTY")  # fmt: skip
_NAMES = {getattr(errno, name): name for name in _KNOWN if hasattr(errno, name)}


def reason_of(error: OSError) -> str:
    """The reason in a few words without a path, for the middle of a sentence; the system's own where we have none."""
    name = _NAMES.get(error.errno) if error.errno is not None else None
    return t(f"reason.{name}") if name else error.strerror or str(error)
