"""HTML: the main text of a page, without navigation, scripts and forms, with headings, lists and tables kept."""

from __future__ import annotations

from typing import Any

from lxml import etree
from lxml import html as lxml_html

from luna_kernel.base.encodings import decode, looks_binary
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import BadRecord, Document, Reader, ReadResult

from .faults import not_text
from .layout import Layout, one_line
from .title import file_title

t = catalogue(__package__)

_LEFT_OUT = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "svg",
        "canvas",
        "iframe",
        "object",
        "form",
        "button",
        "select",
        "nav",
        "aside",
        "footer",
        "dialog",
        "head",
    ]
)
_LEFT_OUT_ROLES = frozenset(["navigation", "banner", "contentinfo", "search", "complementary"])
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "blockquote",
        "body",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "header",
        "hgroup",
        "html",
        "legend",
        "li",
        "main",
        "menu",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "ul",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "br",
    ]
)
_MAIN_SHARE = 0.4
"""A `main` or `article` is the page's text if it has at least this share of all of it."""
_CHARSET = (b"charset=", b"encoding=")


class HtmlReader(Reader):
    """A page: title, headings, paragraphs, lists, tables, and preformatted text as it is."""

    extensions = (".html", ".htm", ".xhtml")

    def read(self, data: bytes, source: str) -> ReadResult:
        """One document.

        Raises:
            UsageError: it is no text.
        """
        layout, title = read_page(data, source)
        text = layout.text()
        if not text.strip():
            return ReadResult(bad=[BadRecord(source, t("empty"))])
        return ReadResult(documents=[Document(text, source, title or layout.title or file_title(source))])


def read_page(data: bytes, source: str, layout: Layout | None = None) -> tuple[Layout, str]:
    """The text of a page and what its `title` says.

    Args:
        data: the bytes; their encoding is what they declare, else what they look like.
        source: the file, for errors.
        layout: where the text goes; a new one if None.
    """
    layout = Layout(source) if layout is None else layout
    root = _parse(data, source)
    if root is None:
        return layout, ""
    title = one_line(root.findtext(".//{*}title") or root.findtext(".//title") or "")
    _blocks(_main_part(root), layout)
    return layout, title


def _parse(data: bytes, source: str) -> Any:
    if looks_binary(data):
        raise not_text(source)
    declared = any(mark in data[:2048].lower() for mark in _CHARSET)
    text, encoding = decode(data)
    parser = lxml_html.HTMLParser(encoding=None if declared and encoding in ("cp1252", "latin-1") else "utf-8")
    body = data if declared and encoding in ("cp1252", "latin-1") else text.encode("utf-8")
    try:
        return lxml_html.document_fromstring(body, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError):  # nothing but white space or comments
        return None


def _main_part(root: Any) -> Any:
    """The element that holds the page's text: `main`, `article` or a part with that role, else all of it."""
    whole = len(one_line("".join(root.itertext())))
    for path in (".//main", ".//*[@role='main']", ".//article"):
        found = root.findall(path)
        if len(found) == 1 and len(one_line("".join(found[0].itertext()))) >= _MAIN_SHARE * whole:
            return found[0]
    return root


def _blocks(element: Any, layout: Layout) -> None:
    """Put the blocks of `element` into `layout`; text between blocks is a paragraph of its own."""
    run: list[str] = []

    def flush() -> None:
        layout.paragraph("".join(run))
        run.clear()

    def inline(node: Any) -> None:
        run.append(node.text or "")
        for child in node:
            visit(child)
            run.append(child.tail or "")

    def visit(node: Any) -> None:
        name = node.tag.lower() if isinstance(node.tag, str) else ""
        if not name or name in _LEFT_OUT or node.get("role") in _LEFT_OUT_ROLES or node.get("hidden") is not None:
            return
        if name not in _BLOCKS:
            inline(node)
            return
        if name == "br":
            run.append("\n")
            return
        flush()
        if len(name) == 2 and name[0] == "h" and name[1].isdigit():
            layout.heading(_words(node), int(name[1]))
        elif name == "li":
            _item(node, layout, visit, depth=sum(1 for up in node.iterancestors("ul", "ol")) - 1)
        elif name == "tr":
            layout.row([_words(cell) for cell in node if isinstance(cell.tag, str)])
        elif name == "pre":
            layout.block("```\n" + "".join(node.itertext()).strip("\n") + "\n```")
        else:
            inline(node)
            flush()

    visit(element)
    flush()


def _item(node: Any, layout: Layout, visit: Any, *, depth: int) -> None:
    """An item of a list, and the lists in it below."""
    inner = [child for child in node if isinstance(child.tag, str) and child.tag in ("ul", "ol")]
    words = "".join(
        [node.text or "", *((("" if child in inner else _words(child)) + (child.tail or "")) for child in node)]
    )
    layout.item(words, depth=max(depth, 0))
    for child in inner:
        visit(child)


def _words(node: Any) -> str:
    """All text of an element but that of scripts and the like."""
    if not isinstance(node.tag, str) or node.tag.lower() in _LEFT_OUT:
        return ""
    parts = [node.text or ""]
    for child in node:
        inner = _words(child)
        parts.append(f" {inner} " if isinstance(child.tag, str) and child.tag.lower() in _BLOCKS else inner)
        parts.append(child.tail or "")
    return "".join(parts)
