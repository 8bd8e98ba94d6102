"""LibreOffice's .odt: headings, paragraphs, lists and tables of the document's body."""

from __future__ import annotations

from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import BadRecord, Document, Reader, ReadResult

from .layout import Layout, one_line
from .package import Package
from .title import file_title
from .xml import local_name, parse_xml

t = catalogue(__package__)

_LEFT_OUT = frozenset(["tracked-changes", "annotation", "note", "forms", "sequence-decls", "frame"])
_MAX_REPEAT = 64
"""Blanks that one element may stand for."""


class OdtReader(Reader):
    """One document per file; its title is the one in its properties, else the first heading."""

    extensions = (".odt",)

    def read(self, data: bytes, source: str) -> ReadResult:
        """The text of the body.

        Raises:
            UsageError: protected by a password, or no OpenDocument text.
        """
        package = Package(data, source)
        if "META-INF/manifest.xml" in package and b"encryption-data" in package.read("META-INF/manifest.xml"):
            raise UsageError(t("locked", source=source), hint=t("locked.hint"))
        body = next(parse_xml(package.read("content.xml"), source).iterfind(".//{*}body/{*}text"), None)
        layout = Layout(source)
        if body is not None:
            _blocks(body, layout, depth=0)
        title = ""
        if "meta.xml" in package:
            title = one_line(parse_xml(package.read("meta.xml"), source).findtext(".//{*}meta/{*}title") or "")
        text = layout.text()
        if not text.strip():
            return ReadResult(bad=[BadRecord(source, t("empty"))])
        return ReadResult(documents=[Document(text, source, title or layout.title or file_title(source))])


def _blocks(element: Any, layout: Layout, depth: int) -> None:
    for child in element:
        name = local_name(child)
        if not name or name in _LEFT_OUT:
            continue
        if name == "h":
            level = next((value for key, value in child.attrib.items() if key.endswith("}outline-level")), "1")
            layout.heading(_words(child), int(level) if level.isdigit() else 1)
        elif name == "p":
            if depth:
                layout.item(_words(child), depth=depth - 1)
            else:
                layout.paragraph(_words(child))
        elif name == "table-row":
            layout.row([_words(cell) for cell in child if local_name(cell) == "table-cell"])
        else:
            _blocks(child, layout, depth + (name == "list"))


def _words(element: Any) -> str:
    """The text of an element; blanks, tabs and line breaks are elements of their own in this format."""
    parts = [element.text or ""]
    for child in element:
        name = local_name(child)
        if name == "s":
            count = next((value for key, value in child.attrib.items() if key.endswith("}c")), "1")
            parts.append(" " * min(int(count) if count.isdigit() else 1, _MAX_REPEAT))
        elif name in ("tab", "line-break"):
            parts.append(" ")
        elif name not in _LEFT_OUT:
            inner = _words(child)
            parts.append(f" {inner} " if name in ("p", "h") else inner)
        parts.append(child.tail or "")
    return "".join(parts)
