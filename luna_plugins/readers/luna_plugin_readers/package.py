"""Files that are zip archives inside (.docx, .odt, .epub, .zip), opened with limits.

Nothing is ever extracted to the disk. What an entry claims to hold is not believed: reading stops at the limit.
"""

from __future__ import annotations

import io
import zipfile
import zlib

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.storage import size_text

from .faults import damaged, nothing_in_it

t = catalogue(__package__)

MAX_ENTRIES = 10_000
MAX_BYTES = 128 << 20
"""Bytes that all entries read from one archive may have together."""


class Package:
    """A zip archive in memory.

    Args:
        data: its bytes.
        source: the file, for errors.

    Raises:
        UsageError: no zip archive, damaged, or too many entries.
    """

    def __init__(self, data: bytes, source: str) -> None:
        self._source = source
        self._left = MAX_BYTES
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            raise damaged(source, error) if data else nothing_in_it(source) from None
        if len(self._zip.filelist) > MAX_ENTRIES:
            raise UsageError(t("zip.entries", source=source, count=len(self._zip.filelist), limit=MAX_ENTRIES))

    @property
    def entries(self) -> list[zipfile.ZipInfo]:
        """The files in it, without folders, in the order of the archive."""
        return [entry for entry in self._zip.filelist if not entry.is_dir()]

    def __contains__(self, name: object) -> bool:
        return name in self._zip.NameToInfo

    def read(self, name: str | zipfile.ZipInfo) -> bytes:
        """The bytes of an entry.

        Raises:
            UsageError: it is not there, protected, damaged, or what was read from this archive is too much.
        """
        try:
            with self._zip.open(name) as file:
                data = file.read(self._left + 1)
        except KeyError:
            raise UsageError(t("zip.missing", source=self._source, name=name)) from None
        except RuntimeError:  # as zipfile says that a password is needed
            raise UsageError(t("locked", source=self._source), hint=t("locked.hint")) from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise damaged(self._source, error) from None
        self._left -= len(data)
        if self._left < 0:
            raise UsageError(t("zip.bomb", source=self._source, limit=size_text(MAX_BYTES)), hint=t("zip.bomb.hint"))
        return data
