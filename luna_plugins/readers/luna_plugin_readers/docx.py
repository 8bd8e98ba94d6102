"""Word's .docx: headings by their style, paragraphs, lists and tables, in the order of the document."""

from __future__ import annotations

import io
import re
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import BadRecord, Document, Reader, ReadResult

from .faults import damaged
from .layout import Layout, one_line
from .package import Package
from .title import file_title

t = catalogue(__package__)

_HEADING = re.compile(r"(?:heading|t[ií]tulo) ?(\d)?", re.IGNORECASE)
_OLE = b"\xd0\xcf\x11\xe0"
"""How a .docx with a password begins, and a .doc of old."""


class DocxReader(Reader):
    """One document per file; its title is the one in its properties, else the first heading."""

    extensions = (".docx",)

    def read(self, data: bytes, source: str) -> ReadResult:
        """The text of the body. Headers, footers, notes and comments are left out.

        Raises:
            UsageError: protected by a password, or no Word document.
        """
        if data.startswith(_OLE):
            raise UsageError(t("locked", source=source), hint=t("locked.hint"))
        package = Package(data, source)
        for entry in package.entries:  # within the limits, before a library unfolds them
            package.read(entry)
        import docx
        from docx.table import Table

        try:
            document = docx.Document(io.BytesIO(data))
            layout = Layout(source)
            for block in document.iter_inner_content():
                if isinstance(block, Table):
                    _table(block, layout)
                else:
                    _paragraph(block, layout)
            title = one_line(document.core_properties.title or "")
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - the library raises many kinds on damaged files
            raise damaged(source, error) from None
        text = layout.text()
        if not text.strip():
            return ReadResult(bad=[BadRecord(source, t("empty"))])
        return ReadResult(documents=[Document(text, source, title or layout.title or file_title(source))])


def _paragraph(block: Any, layout: Layout) -> None:
    style = (block.style.name or "") if block.style is not None else ""
    heading = _HEADING.fullmatch(style)
    if heading or style.lower() == "title":
        layout.heading(block.text, int(heading[1] or 1) if heading else 1)
    elif style.lower().startswith(("list", "lista")) or block._p.find(".//{*}numPr") is not None:
        layout.item(block.text)
    else:
        layout.paragraph(block.text)


def _table(table: Any, layout: Layout) -> None:
    for row in table.rows:
        cells: list[Any] = []
        for cell in row.cells:  # a merged cell comes once for each column that it spans
            if not cells or cell._tc is not cells[-1]._tc:
                cells.append(cell)
        layout.row([cell.text for cell in cells])
