"""Readers of what people keep their documents in. This module is light: it only says what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel import hookimpl

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Add

LUNA_API = 1

FORMATS = {
    "pdf": ("pdf:PdfReader", ".pdf, with the page of each passage"),
    "html": ("html:HtmlReader", ".html, .htm, .xhtml: the main text with its headings"),
    "docx": ("docx:DocxReader", ".docx of Word"),
    "odt": ("odt:OdtReader", ".odt of LibreOffice"),
    "epub": ("epub:EpubReader", ".epub: books, chapter by chapter"),
    "json": ("structured:JsonReader", ".json: dialogues, or any data as text"),
    "yaml": ("structured:YamlReader", ".yaml, .yml: any data as text"),
    "xml": ("xml:XmlReader", ".xml: the text of its elements"),
    "zip": ("archive:ZipReader", ".zip of files that another reader takes"),
}
"""Each reader's place and the line that `luna plugins` shows."""


@hookimpl
def luna_add_data(add: Add) -> None:
    """One reader per format."""
    for name, (place, line) in FORMATS.items():
        add("reader", name, f"luna_plugin_readers.{place}", help=line)
