"""Large files that are mapped and used in part: each block is compared with its checksum before its first use.

Beside the file lies a table, `NAME.blocks`, with the SHA-256 of every block; the table itself is one of the files that
a manifest names and `integrity.check` compares as a whole. So no byte is used that is not known to be what was written,
and what nobody asks for costs nothing. What no one used is compared by whoever checks the whole file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

SUFFIX = ".blocks"
BLOCK = 1 << 16
"""Bytes of a block."""
_DIGEST = 32


def write_sums(path: Path) -> None:
    """Write the table of a file that has been written."""
    sums = bytearray()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            sums += hashlib.sha256(block).digest()
    durable.write_bytes(path.with_name(path.name + SUFFIX), sums)


class BlockSums:
    """The checksums of a file's blocks, and which of them have been compared.

    Args:
        path: the file; its table lies beside it.
        content: its bytes, mapped.

    Raises:
        IntegrityError: the table is not that of a file of this size.
        OSError: there is none.
    """

    def __init__(self, path: Path, content: memoryview) -> None:
        self._path = path
        self._content = content
        self._sums = path.with_name(path.name + SUFFIX).read_bytes()
        count = -(-len(content) // BLOCK)
        if len(self._sums) != count * _DIGEST:
            raise self._damaged()
        self._known = bytearray(count)

    def check(self, begin: int, end: int) -> None:
        """Compare the blocks that hold the bytes `begin:end`, those that were not compared yet.

        Raises:
            IntegrityError: a block is not what was written.
        """
        for number in range(begin // BLOCK, -(-end // BLOCK)):
            if self._known[number]:
                continue
            found = hashlib.sha256(self._content[number * BLOCK : (number + 1) * BLOCK]).digest()
            if found != self._sums[number * _DIGEST : (number + 1) * _DIGEST]:
                raise self._damaged()
            self._known[number] = 1

    def _damaged(self) -> IntegrityError:
        return IntegrityError(
            t("integrity.hash", folder=self._path.parent, name=self._path.name), hint=t("integrity.hint")
        )
