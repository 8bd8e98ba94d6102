"""Archives: a .zip of files, each read by the reader of its ending."""

from __future__ import annotations

import importlib
import posixpath
import unicodedata
import zipfile
from pathlib import PurePosixPath
from typing import cast

from luna_kernel.base.errors import LunaError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import BadRecord, Reader, ReadResult

from .package import Package

t = catalogue(__package__)

MAX_DEPTH = 2
"""Archives within archives."""
_UTF8 = 0x800


class ZipReader(Reader):
    """The files in it, named `archive.zip/folder/file`; what cannot be read is reported and hinders no other."""

    extensions = (".zip",)
    depth = 0

    def read(self, data: bytes, source: str) -> ReadResult:
        """What all files in it gave together.

        Raises:
            UsageError: no archive, damaged as a whole, or too many entries.
        """
        package = Package(data, source)
        result = ReadResult()
        for entry in package.entries:
            name = entry_name(entry)
            if name is None or any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts):
                continue
            inside = f"{source}/{name}"
            target = self.others.get(PurePosixPath(name).suffix.lower())
            if target is None:
                result.bad.append(BadRecord(inside, t("zip.no_reader", formats=" ".join(sorted(self.others)))))
                continue
            try:
                found = self._reader(target).read(package.read(entry), inside)
            except LunaError as error:
                result.bad.append(BadRecord(inside, error.text.removeprefix(f"{inside}: ").removeprefix(f"{source}: ")))
                continue
            result.documents += found.documents
            result.records += found.records
            result.bad += found.bad
        if not (result.documents or result.records or result.bad):
            result.bad.append(BadRecord(source, t("empty")))
        return result

    def _reader(self, target: str) -> Reader:
        module, _, name = target.partition(":")
        reader = cast("Reader", getattr(importlib.import_module(module), name)())
        reader.search = self.search
        if isinstance(reader, ZipReader):
            reader.depth = self.depth + 1
        reader.others = self.others if self.depth + 1 < MAX_DEPTH else {}
        return reader


def entry_name(entry: zipfile.ZipInfo) -> str | None:
    """The name of an entry as people see it; None for one that would lie outside the archive's folder.

    Names without the mark for UTF-8 are in the code page of old Windows, which zipfile takes for cp437: cp850 is what
    Brazilian machines wrote.
    """
    name = entry.filename
    if not entry.flag_bits & _UTF8:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeDecodeError:
            name = name.encode("cp437").decode("cp850", "replace")
        except UnicodeEncodeError:
            pass
    name = unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))
    if name.startswith(("/", "../")) or name in ("..", ".") or ":" in name.split("/")[0]:
        return None
    return name
