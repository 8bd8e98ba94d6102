"""A folder of documents in every format that Luna reads, made of the texts of other folders, the same for one seed."""

from __future__ import annotations

import csv
import html
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import fpdf
import yaml

SHARES = {
    "txt": 20, "md": 15, "html": 15, "pdf": 12, "docx": 12, "csv": 4, "json": 4, "jsonl": 4, "yaml": 2, "xml": 4,
    "epub": 3, "odt": 3, "zip": 2,
}  # fmt: skip
"""Files of each ending in a hundred."""
_ODT = (
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
)
_CONTAINER = (
    '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>'
    '<rootfile full-path="c.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
_PACKAGE = (
    '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></metadata><manifest>'
    '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
    '<spine><itemref idref="a"/></spine></package>'
)

Paragraphs = list[str]


def texts_of(folders: list[Path]) -> Paragraphs:
    """The paragraphs of all `.txt` and `.md` files below the folders, those of more than 150 words cut."""
    found: Paragraphs = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".txt", ".md"):
                text = path.read_text(encoding="utf-8", errors="replace")
                for part in text.split("\n\n"):
                    words = part.split()
                    pieces = (words[begin : begin + 150] for begin in range(0, len(words), 150))
                    found += [" ".join(piece) for piece in pieces if len(piece) > 5]
    return found


def make_folder(folder: Path, paragraphs: Paragraphs, count: int, seed: int = 1) -> dict[str, int]:
    """Write `count` files of 2 to 40 kB of text each; returns how many of each ending.

    Each file holds another stretch of the paragraphs; the last ones begin anew where the texts do not suffice.
    """
    draw = random.Random(seed)
    made: dict[str, int] = {}
    place = 0
    endings = [ending for ending, share in SHARES.items() for _ in range(share)]
    for number in range(count):
        ending = endings[number * 37 % len(endings)]  # all kinds among the first files as among the last
        room = int(2000 * 20 ** draw.random())
        part: Paragraphs = []
        while room > 0:
            part.append(paragraphs[place % len(paragraphs)])
            room -= len(part[-1].encode())
            place += 1
        path = folder / f"parte{number // 100}" / f"documento{number:04}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WRITERS[ending](f"Documento {number}", part))
        made[ending] = made.get(ending, 0) + 1
    return made


def _txt(title: str, part: Paragraphs) -> bytes:
    return "\n\n".join([title, *part]).encode()


def _md(title: str, part: Paragraphs) -> bytes:
    sections = [f"## Parte {n // 5 + 1}\n\n{p}" if n % 5 == 0 else p for n, p in enumerate(part)]
    return "\n\n".join([f"# {title}", *sections]).encode()


def _body(title: str, part: Paragraphs) -> str:
    return f"<h1>{title}</h1>" + "".join(f"<p>{html.escape(p)}</p>\n" for p in part)


def _html(title: str, part: Paragraphs) -> bytes:
    head = f"<!doctype html><html lang='pt'><head><meta charset='utf-8'><title>{title}</title></head>"
    menu = "<nav><a href='/'>Início</a> <a href='/b'>Busca</a></nav><script>var a = 1;</script>"
    return f"{head}<body>{menu}<main>{_body(title, part)}</main><footer>Fim</footer></body></html>".encode()


def _pdf(title: str, part: Paragraphs) -> bytes:
    made = fpdf.FPDF()
    made.set_title(title)
    made.add_page()
    made.set_font("Helvetica", size=11)
    for paragraph in (title, *part):
        made.multi_cell(0, 5, paragraph.encode("latin-1", "replace").decode("latin-1"), new_x="LMARGIN", new_y="NEXT")
        made.ln(3)
    return bytes(made.output())


def _docx(title: str, part: Paragraphs) -> bytes:
    made = docx.Document()
    made.add_heading(title, 1)
    for paragraph in part:
        made.add_paragraph(paragraph)
    file = io.BytesIO()
    made.save(file)
    return file.getvalue()


def _csv(title: str, part: Paragraphs) -> bytes:
    file = io.StringIO()
    rows = csv.writer(file)
    rows.writerow(["question", "answer"])
    rows.writerows([f"{title}, item {n}?", p] for n, p in enumerate(part))
    return file.getvalue().encode()


def _json(title: str, part: Paragraphs) -> bytes:
    return json.dumps({"título": title, "itens": [{"número": n, "texto": p} for n, p in enumerate(part)]}).encode()


def _jsonl(title: str, part: Paragraphs) -> bytes:
    return "\n".join(json.dumps({"text": p, "título": title}, ensure_ascii=False) for p in part).encode()


def _yaml(title: str, part: Paragraphs) -> bytes:
    return yaml.safe_dump({"título": title, "itens": part}, allow_unicode=True).encode()


def _xml(title: str, part: Paragraphs) -> bytes:
    items = "".join(f"<parágrafo>{html.escape(p)}</parágrafo>" for p in part)
    return f"<?xml version='1.0' encoding='utf-8'?><doc><título>{title}</título>{items}</doc>".encode()


def _packed(files: dict[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def _epub(title: str, part: Paragraphs) -> bytes:
    page = f"<html xmlns='http://www.w3.org/1999/xhtml'><head><title>{title}</title></head>"
    return _packed(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": _CONTAINER,
            "c.opf": _PACKAGE.format(title=title),
            "a.xhtml": f"{page}<body>{_body(title, part)}</body></html>",
        }
    )


def _odt(title: str, part: Paragraphs) -> bytes:
    lines = f"<text:h text:outline-level='1'>{title}</text:h>" + "".join(
        f"<text:p>{html.escape(p)}</text:p>" for p in part
    )
    body = f"<office:body><office:text>{lines}</office:text></office:body>"
    return _packed(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "content.xml": f"<office:document-content {_ODT}>{body}</office:document-content>",
        }
    )


def _zip(title: str, part: Paragraphs) -> bytes:
    half = len(part) // 2
    return _packed({"a.txt": _txt(title, part[:half] or part), "sub/b.html": _html(title, part[half:])})


WRITERS: dict[str, Callable[[str, Paragraphs], bytes]] = {
    "txt": _txt, "md": _md, "html": _html, "pdf": _pdf, "docx": _docx, "csv": _csv, "json": _json, "jsonl": _jsonl,
    "yaml": _yaml, "xml": _xml, "epub": _epub, "odt": _odt, "zip": _zip,
}  # fmt: skip
