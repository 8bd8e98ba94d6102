"""PDF: the text of its pages as one document that knows where each page begins.

What a PDF calls a line is a line of print. Words cut at a line's end are put together, and lines that run on become
paragraphs; headers and footers that repeat on most pages are left out.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.storage import size_text
from luna_kernel.contracts.data import BadRecord, Document, Reader, ReadResult

from .faults import damaged, nothing_in_it
from .layout import MAX_CHARS, one_line
from .title import file_title

t = catalogue(__package__)

_REPEATED = 0.6
"""A first or last line on at least this share of the pages (of four or more) is a header or footer."""
_FEW_PAGES = 4
_NO_TITLE = re.compile(r"\.(?:docx?|odt|indd|pdf|tex|pptx?)$|^(?:untitled|sem título|microsoft word)", re.IGNORECASE)
_HEADING = 80
"""Characters of a line that may be a heading."""
_DIGITS = re.compile(r"\d+")
_ENDS = re.compile(r"[.!?:;…][\"'”»)\]]*$")
_STARTS = re.compile(r"^(?:[-•–—*▪●◦]|\d{1,3}[.)]|[a-z]\)|[IVXLC]+\.)\s")
"""How a line begins that belongs to no line before it: an item of a list, a numbered heading."""


class PdfReader(Reader):
    """One document per file; `metadata["page_starts"]` has the offset at which each page begins."""

    extensions = (".pdf",)

    def read(self, data: bytes, source: str) -> ReadResult:
        """The text of all pages; pages that cannot be read are reported.

        Raises:
            UsageError: protected by a password, damaged, or no text in it at all (a scan).
        """
        pdf = _open(data, source)
        result = ReadResult()
        pages, total = [], 0
        for number in range(1, len(pdf.pages) + 1):
            try:
                pages.append(_text_of(pdf.pages[number - 1]))
            except Exception as error:  # noqa: BLE001 - the library raises many kinds on damaged pages
                pages.append("")
                result.bad.append(BadRecord(source, _fault(number, error)))
            total += len(pages[-1])
            if total > MAX_CHARS:
                limit = size_text(MAX_CHARS)
                raise UsageError(t("too_much_text", source=source, limit=limit), hint=t("too_much_text.hint"))
        text, starts = join_pages(pages)
        if not text.strip():
            if result.bad:
                return result
            raise UsageError(t("pdf.scan", source=source, pages=len(pages)), hint=t("pdf.scan.hint"))
        title = _title(pdf) or file_title(source)
        result.documents.append(Document(text, source, title, {"page_starts": starts}))
        return result


def _text_of(page: Any) -> str:
    """A page's text. The library gives none for what it cannot unfold; asked for the bytes, it says why."""
    text = str(page.extract_text())
    if not text and (contents := page.get_contents()) is not None:
        contents.get_data()
    return text


def _fault(number: int, error: Exception) -> str:
    from pypdf.errors import LimitReachedError

    if isinstance(error, LimitReachedError):
        return t("pdf.limit", page=number)
    return t("pdf.page", page=number, reason=one_line(str(error))[:200])


def _open(data: bytes, source: str) -> Any:
    import logging

    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells of each slip in a file that it mends
    try:
        pdf = pypdf.PdfReader(io.BytesIO(data), strict=False)
        locked = pdf.is_encrypted and not pdf.decrypt("")
        if not locked:
            len(pdf.pages)
    except pypdf.errors.DependencyError:  # a cipher that pypdf needs another library for
        locked = True
    except Exception as error:  # noqa: BLE001 - as above
        raise (damaged(source, error) if data else nothing_in_it(source)) from None
    if locked:
        raise UsageError(t("locked", source=source), hint=t("locked.hint"))
    return pdf


def _title(pdf: Any) -> str:
    """The title in the file's properties, unless it is the name of some file."""
    try:
        title = one_line(str(pdf.metadata.title or "")) if pdf.metadata else ""
    except Exception:  # noqa: BLE001 - damaged properties
        return ""
    return "" if _NO_TITLE.search(title) else title


def join_pages(pages: list[str]) -> tuple[str, list[int]]:
    """The text of all pages and the offset at which each begins; pages are set apart by a blank line unless a sentence
    runs on."""
    bodies = [_paragraphs(lines) for lines in _without_repeated([_lines(page) for page in pages])]
    text, starts = "", []
    parts: list[str] = []
    length = 0
    for body in bodies:
        if parts and body:
            runs_on = not _ENDS.search(parts[-1].rstrip()) and body[0].islower()
            gap = " " if runs_on else "\n\n"
            parts.append(gap)
            length += len(gap)
        starts.append(length)
        if body:
            parts.append(body)
            length += len(body)
    text = "".join(parts)
    return (text + "\n" if text else ""), starts


def _lines(page: str) -> list[str]:
    return [one_line(line) for line in page.replace("\xad\n", "\xad").split("\n")]


def _without_repeated(pages: list[list[str]]) -> list[list[str]]:
    """Pages without the first and last lines that most of them share, numbers aside."""
    filled = [[line for line in page if line] for page in pages]
    with_text = [page for page in filled if page]
    if len(with_text) < _FEW_PAGES:
        return pages
    shared: set[str] = set()
    for place in (0, -1):
        counted = Counter(_DIGITS.sub("#", page[place]) for page in with_text)
        shared |= {line for line, count in counted.items() if count >= _REPEATED * len(with_text)}
    kept = []
    for page, lines in zip(pages, filled, strict=True):
        edge = {place for place, line in enumerate(page) if line}
        first, last = min(edge, default=-1), max(edge, default=-1)
        kept.append([line for place, line in enumerate(page)
                     if not (lines and place in (first, last) and _DIGITS.sub("#", line) in shared)])  # fmt: skip
    return kept


def _paragraphs(lines: list[str]) -> str:
    """Lines of print as paragraphs; what looks like a heading stands apart by blank lines, as chunkers know one."""
    lengths = sorted(len(line) for line in lines if line)
    full = 0.7 * lengths[int(0.9 * (len(lengths) - 1))] if lengths else 0
    paragraphs: list[str] = []
    open_ = False
    """Whether the last paragraph waits for the next line."""
    for line in lines:
        if not line:
            open_ = False
            continue
        ended = bool(paragraphs) and bool(_ENDS.search(paragraphs[-1]))
        if open_ and not _STARTS.match(line) and not (ended and _is_heading(line, full)):
            paragraphs[-1] = _joined(paragraphs[-1], line)
        else:
            paragraphs.append(line)
        open_ = len(line) >= full and (not _ENDS.search(line) or len(line) >= 1.2 * full)
    text = ""
    for paragraph in paragraphs:
        apart = _is_heading(paragraph, full)
        text = f"{text.rstrip(chr(10))}\n\n{paragraph}\n\n" if apart else f"{text}{paragraph}\n"
    return text.strip("\n")


def _is_heading(line: str, full: float) -> bool:
    """Whether a line is short, begins with a capital or a number and has no closing mark."""
    short = len(line) < min(full, _HEADING)
    return short and (line[0].isupper() or line[0].isdigit()) and not _ENDS.search(line) and line[-1] not in ",-"


def _joined(before: str, line: str) -> str:
    """`exem-` and `plo` as `exemplo`, everything else with a blank between."""
    if before.endswith(("-", "\xad", "‐")) and len(before) > 1 and before[-2].isalpha() and line[:1].islower():
        return before[:-1] + line
    return f"{before} {line}"
