"""Files that are broken, hostile or empty: one fault with a reason, in little time and memory, and never a crash."""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from pathlib import Path

import pytest
from luna_plugin_readers.archive import entry_name

from luna_kernel.plugins.registry import Registry

from .conftest import Read, pdf_of, zipped
from .test_formats import ODT, epub_of


def reason(result: object) -> str:
    """The one fault, where nothing else was read."""
    assert not result.documents  # type: ignore[attr-defined]
    assert not result.records  # type: ignore[attr-defined]
    [fault] = result.bad  # type: ignore[attr-defined]
    return str(fault.reason)


def test_a_pdf_with_a_password(read: Read) -> None:
    assert "password" in reason(read("a.pdf", pdf_of([["segredo"]], password="x")))


def test_a_pdf_that_anybody_may_read(read: Read) -> None:
    import pypdf

    writer = pypdf.PdfWriter(io.BytesIO(pdf_of([["Texto aberto."]])))
    writer.encrypt("", "dono", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    assert "Texto aberto." in read("a.pdf", out.getvalue()).documents[0].text


def test_a_scan(read: Read) -> None:
    assert "looks like a scan" in reason(read("a.pdf", pdf_of([[], []])))


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.odt", "a.epub", "a.zip", "a.json", "a.yaml", "a.xml"])
@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"PK\3\4", b"%PDF-1.7\n", b"<", b"{", b"\xff\xfe" * 50, b"a: [b"])
def test_nonsense_is_one_fault(read: Read, name: str, data: bytes) -> None:
    result = read(name, data)
    assert result.bad or name in ("a.yaml", "a.json")
    assert not result.records


def test_damaged_files_never_crash(read: Read) -> None:
    """Bytes changed at random: text or a fault, each within the worker's limits."""
    import docx

    out = io.BytesIO()
    document = docx.Document()
    document.add_paragraph("Um parágrafo. " * 20)
    document.save(out)
    random.seed(0)
    wholes = {
        "a.pdf": pdf_of([["Uma linha de texto."] * 9] * 2), "a.docx": out.getvalue(),
        "a.epub": epub_of({"a.xhtml": "<p>oi</p>"}), "a.odt": zipped({"content.xml": ODT}),
    }  # fmt: skip
    for name, whole in wholes.items():
        for _ in range(12):
            data = bytearray(whole)
            for _ in range(random.choice([1, 5, 50])):
                data[random.randrange(len(data))] = random.randrange(256)
            result = read(name, bytes(data[: random.randint(len(data) // 2, len(data))]))
            assert result.documents or result.bad, name


BOMB = """<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">{}]><l>&z;</l>""".format(
    "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(25))
)


@pytest.mark.parametrize("name", ["a.xml", "a.odt", "a.epub"])
def test_an_entity_bomb(read: Read, name: str) -> None:
    data = {
        "a.xml": BOMB.encode(),
        "a.odt": zipped({"content.xml": BOMB}),
        "a.epub": zipped({"META-INF/container.xml": BOMB}),
    }[name]
    assert "entities" in reason(read(name, data)) or "entity" in reason(read(name, data)).lower()


def test_an_outside_entity_is_not_read(read: Read, tmp_path: Path) -> None:
    (tmp_path / "segredo").write_text("nunca", encoding="utf-8")
    evil = f'<!DOCTYPE l [<!ENTITY x SYSTEM "file://{tmp_path}/segredo">]><l>oi &x;</l>'
    assert "nunca" not in reason(read("a.xml", evil))


def test_a_zip_bomb(read: Read) -> None:
    bomb = zipped({f"{n}.txt": b"a" * (30 << 20) for n in range(6)})
    assert len(bomb) < 1 << 20
    result = read("a.zip", bomb)
    assert any("128" in fault.reason or "134" in fault.reason for fault in result.bad)


def test_a_docx_bomb(read: Read) -> None:
    assert "exceeds" in reason(read("a.docx", zipped({"word/document.xml": b" " * (200 << 20)})))


def test_a_yaml_bomb(read: Read) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "of text" in reason(read("a.yaml", "\n".join(lines)))


def test_a_bomb_of_yaml_costs_no_time(read: Read) -> None:
    """What it stands for is counted before anything of it is written out."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    assert "of text" in reason(read("a.yaml", "\n".join(lines)))


def test_yaml_that_holds_itself_or_repeats_a_little_is_read(read: Read) -> None:
    assert "casa" in read("a.yaml", "casa: &a {rua: Sete, vizinho: *a}").documents[0].text
    assert read("b.yaml", "um: &u [x, y]\ndois: *u\ntrês: *u\n").documents[0].text.count("x, y") == 3


@pytest.mark.parametrize(
    ("name", "data", "where"),
    [
        ("a.json", '{"a": 1,\n "b": }', "line 2, column 7"),
        ("a.yaml", "a: 1\nb: [1, 2\nc: 3\n", "line 3, column 2"),
        ("a.xml", "<a>\n<b></a>", "line 2, column 8"),
    ],
)
def test_where_the_syntax_is_broken(read: Read, name: str, data: str, where: str) -> None:
    assert where in reason(read(name, data))


@pytest.mark.parametrize("name", ["a.pdf", "a.docx", "a.odt", "a.epub", "a.zip", "a.json", "a.yaml", "a.xml"])
def test_a_file_without_a_byte(read: Read, name: str) -> None:
    assert "empty" in reason(read(name, b""))


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a.json", "a.yaml"])
def test_bytes_that_are_no_text(read: Read, name: str) -> None:
    assert "not a text file" in reason(read(name, b"texto \0\0 com nulos \0"))


def test_a_fault_inside_an_archive_names_its_place_once(read: Read) -> None:
    inner = zipped({"a.json": "{", "bom.txt": "bom"})
    [fault] = read("fora.zip", zipped({"dentro.zip": inner})).bad
    assert fault.place == "fora.zip/dentro.zip/a.json"
    assert "zip" not in fault.reason
    [fault] = read("b.zip", zipped({"a.zip": zipped({f"{n}.txt": b"a" * (30 << 20) for n in range(5)})})).bad
    assert fault.reason.startswith("unpacked")


def test_yaml_makes_no_objects(read: Read) -> None:
    assert "asks for objects" in reason(read("a.yaml", "!!python/object/apply:os.system ['true']"))


@pytest.mark.parametrize("name", ["../fora.txt", "/etc/passwd.txt", "C:\\x.txt", "a/../../b.txt", ".."])
def test_entries_outside_the_archive_are_left_out(read: Read, name: str) -> None:
    assert entry_name(zipfile.ZipInfo(name)) is None
    result = read("a.zip", zipped({name: "mau", "bom.txt": "bom"}))
    assert [document.text for document in result.documents] == ["bom"]


def test_names_of_old_windows(read: Read) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("relatXrio.txt", "texto")
    data = out.getvalue().replace(b"relatXrio", "relatório".encode("cp850"))
    assert read("a.zip", data).documents[0].source == "a.zip/relatório.txt"


def test_archives_within_archives_have_a_limit(read: Read) -> None:
    data = zipped({"a.txt": "fundo"})
    for _ in range(3):
        data = zipped({"b.zip": data})
    result = read("a.zip", data)
    assert not result.documents
    assert result.bad


def test_an_archive_with_a_password(read: Read) -> None:
    data = bytearray(zipped({"a.txt": "oi"}))
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag alone: zipfile asks for the password
        data[data.index(mark) + place] |= 1
    assert "password" in reason(read("a.zip", bytes(data)))


def test_every_extension_has_one_reader(registry: Registry) -> None:
    from luna_kernel.data.reading import readers_by_extension

    expected = [
        ".pdf",
        ".html",
        ".htm",
        ".xhtml",
        ".docx",
        ".odt",
        ".epub",
        ".json",
        ".yaml",
        ".yml",
        ".xml",
        ".zip",
        ".txt",
        ".md",
        ".csv",
        ".jsonl",
    ]
    assert set(expected) <= set(readers_by_extension(registry))


@pytest.mark.parametrize("twice", [False, True])
def test_a_pdf_bomb(read: Read, twice: bool) -> None:
    """A page of a gigabyte of blanks in a megabyte, or in four kilobytes."""
    import pypdf

    packer = zlib.compressobj(9)
    stream = b"".join(packer.compress(b" " * (1 << 24)) for _ in range(64)) + packer.flush()
    stream = zlib.compress(stream, 9) if twice else stream
    reader = pypdf.PdfReader(io.BytesIO(pdf_of([["texto"]])))
    writer = pypdf.PdfWriter(reader)
    content = pypdf.generic.EncodedStreamObject()
    content._data = stream
    name = pypdf.generic.NameObject("/FlateDecode")
    content[pypdf.generic.NameObject("/Filter")] = pypdf.generic.ArrayObject([name] * (1 + twice))
    writer.pages[0][pypdf.generic.NameObject("/Contents")] = writer._add_object(content)
    out = io.BytesIO()
    writer.write(out)
    assert len(out.getvalue()) < 2_000_000
    [fault] = read("a.pdf", out.getvalue()).bad
    assert "exceeds" in fault.reason
    assert "scan" not in fault.reason
