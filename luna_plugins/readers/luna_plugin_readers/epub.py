"""Books in .epub: the chapters in reading order, one document each."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import BadRecord, Document, Reader, ReadResult

from .html import read_page
from .layout import one_line
from .package import Package
from .title import file_title
from .xml import parse_xml

t = catalogue(__package__)


class EpubReader(Reader):
    """One document per chapter, titled `Book: chapter`."""

    extensions = (".epub",)

    def read(self, data: bytes, source: str) -> ReadResult:
        """The chapters of the book's spine that hold text; one that cannot be read is reported.

        Raises:
            UsageError: no book, or one whose text is encrypted (DRM).
        """
        package = Package(data, source)
        if "META-INF/rights.xml" in package or "META-INF/sinf.xml" in package:
            raise UsageError(t("locked", source=source), hint=t("locked.hint"))
        container = parse_xml(package.read("META-INF/container.xml"), source)
        root_file = next((item.get("full-path", "") for item in container.iterfind(".//{*}rootfile")), "")
        book = parse_xml(package.read(root_file), source)
        title = one_line(book.findtext(".//{*}metadata/{*}title") or "") or file_title(source)
        files = {item.get("id"): item.get("href", "") for item in book.iterfind(".//{*}manifest/{*}item")}
        result = ReadResult()
        for number, item in enumerate(book.iterfind(".//{*}spine/{*}itemref"), 1):
            name = posixpath.normpath(
                posixpath.join(posixpath.dirname(root_file), unquote(files.get(item.get("idref"), "")))
            )
            try:
                layout, page_title = read_page(package.read(name), f"{source}/{name}")
            except UsageError as error:
                result.bad.append(BadRecord(f"{source}/{name}", error.text))
                continue
            text = layout.text()
            if text.strip():
                chapter = layout.title or page_title
                full = f"{title}: {chapter}" if chapter and chapter != title else title
                result.documents.append(Document(text, source, full, {"chapter": number}))
        if not result.documents and not result.bad:
            result.bad.append(BadRecord(source, t("empty")))
        return result
