"""XML: the text of its elements, one block each. Entities and outside resources are never resolved."""

from __future__ import annotations

from typing import Any

from lxml import etree

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import BadRecord, Document, Reader, ReadResult

from .faults import bad_syntax, damaged, nothing_in_it
from .layout import Layout, one_line
from .title import file_title

t = catalogue(__package__)


def parse_xml(data: bytes, source: str) -> Any:
    """The root element of an XML document.

    No document type with entities is taken: that is how a few lines become gigabytes, and how a document reads other
    files.

    Raises:
        UsageError: not well-formed, or it declares entities.
    """
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        if not data:
            raise nothing_in_it(source) from None
        if "entity" in str(error).lower():  # one that multiplies is refused while it is read
            raise UsageError(t("xml.entities", source=source), hint=t("xml.entities.hint")) from None
        raise bad_syntax(source, "XML", *error.position) from None
    except ValueError as error:
        raise damaged(source, error) from None
    declared = root.getroottree().docinfo.internalDTD
    if declared is not None and any(True for _ in declared.iterentities()):
        raise UsageError(t("xml.entities", source=source), hint=t("xml.entities.hint"))
    return root


def local_name(element: Any) -> str:
    """An element's name without its namespace; empty for comments and the like."""
    return etree.QName(element).localname if isinstance(element.tag, str) else ""


class XmlReader(Reader):
    """Any XML: `name: text` for each element that holds text, in the order of the document."""

    extensions = (".xml",)

    def read(self, data: bytes, source: str) -> ReadResult:
        """One document; an element with text between its children is one block."""
        layout = Layout(source)
        _walk(parse_xml(data, source), layout)
        text = layout.text()
        if not text.strip():
            return ReadResult(bad=[BadRecord(source, t("empty"))])
        return ReadResult(documents=[Document(text, source, file_title(source))])


def _walk(root: Any, layout: Layout) -> None:
    stack = [root]
    while stack:
        element = stack.pop()
        if not isinstance(element.tag, str):
            continue
        mixed = bool((element.text or "").strip()) or any((child.tail or "").strip() for child in element)
        if mixed:
            layout.block(f"{local_name(element)}: {one_line(''.join(element.itertext()))}")
        else:
            stack.extend(reversed(element))
