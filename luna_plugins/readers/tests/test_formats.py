"""What each reader makes of a good file."""

from __future__ import annotations

import io
import json

import pytest

from .conftest import Read, pdf_of, zipped


class TestPdf:
    LINES = [
        "O regulamento da biblioteca municipal vale para todos os leitores e para os visi-",
        "tantes que entram no prédio, também aos sábados e domingos de manhã.",
        "Horário",
        "- de segunda a sexta",
    ]

    def test_lines_become_paragraphs_and_cut_words_are_put_together(self, read: Read) -> None:
        text = read("a.pdf", pdf_of([self.LINES])).documents[0].text
        assert "para os visitantes que entram no prédio" in text
        assert text.endswith("domingos de manhã.\n\nHorário\n\n- de segunda a sexta\n")

    def test_the_offset_of_each_page_is_known(self, read: Read) -> None:
        pages = [["Primeira página com seu texto."], [], ["Terceira página com outro texto."]]
        document = read("a.pdf", pdf_of(pages, title="Manual")).documents[0]
        first, second, third = document.metadata["page_starts"]
        assert (first, second) == (0, len("Primeira página com seu texto."))
        assert document.text[third:].startswith("Terceira")
        assert document.title == "Manual"

    def test_a_sentence_goes_on_over_the_page(self, read: Read) -> None:
        long = "Esta frase começa na primeira página do documento e continua sem parar até a"
        text = read("a.pdf", pdf_of([[long], ["segunda, onde acaba."]])).documents[0].text
        assert "sem parar até a segunda, onde acaba." in text

    def test_headers_and_footers_that_repeat_are_left_out(self, read: Read) -> None:
        pages = [
            ["Câmara Municipal", f"O artigo {n} trata do assunto número {n}.", f"Página {n} de 5"] for n in range(1, 6)
        ]
        text = read("a.pdf", pdf_of(pages)).documents[0].text
        assert "Câmara Municipal" not in text
        assert "Página" not in text
        assert text.count("trata do assunto") == 5

    def test_a_title_that_is_a_file_name_is_none(self, read: Read) -> None:
        assert read("edital.pdf", pdf_of([["Texto."]], title="rascunho_final.docx")).documents[0].title == "edital"


class TestHtml:
    PAGE = """<!DOCTYPE html><html><head><title>Receitas da vó</title><style>p{color:red}</style></head><body>
    <nav><a href="/">Início</a></nav><script>alert("oi")</script>
    <main><h1>Bolo de fubá</h1><p>Um bolo <b>simples</b>
    e rápido.</p><h2>Ingredientes</h2><ul><li>fubá<ul><li>fino</li></ul></li><li>leite</li></ul>
    <table><tr><th>item</th><th>quanto</th></tr><tr><td>fubá</td><td>2 xícaras</td></tr></table>
    <pre>forno 180
tempo 40</pre>Sirva <em>morno</em>.<p hidden>segredo</p></main><footer>Todos os direitos</footer></body></html>"""

    def test_main_text_with_its_structure(self, read: Read) -> None:
        document = read("a.html", self.PAGE).documents[0]
        assert document.title == "Receitas da vó"
        assert document.text == (
            "# Bolo de fubá\n\nUm bolo simples e rápido.\n\n## Ingredientes\n\n- fubá\n  - fino\n- leite\n\n"
            "| item | quanto |\n| fubá | 2 xícaras |\n\n```\nforno 180\ntempo 40\n```\n\nSirva morno.\n"
        )

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16"])
    @pytest.mark.parametrize("declared", [True, False])
    def test_encodings(self, read: Read, encoding: str, declared: bool) -> None:
        meta = f'<meta charset="{encoding.removesuffix("-sig")}">' if declared else ""
        page = f"<html><head>{meta}<title>São João</title></head><body><p>Pão e maçã</p></body></html>"
        document = read("a.html", page.encode(encoding)).documents[0]
        assert (document.title, document.text) == ("São João", "Pão e maçã\n")

    def test_words_of_neighbouring_blocks_do_not_run_together(self, read: Read) -> None:
        assert read("a.htm", "<div>um<div>dois</div>três</div>quatro<br>cinco").documents[0].text == (
            "um\n\ndois\n\ntrês\n\nquatro cinco\n"
        )


def test_docx(read: Read) -> None:
    import docx

    document = docx.Document()
    document.core_properties.title = "Política de viagens"
    document.add_heading("Reembolso", level=1)
    document.add_paragraph("O pedido é feito em até 30 dias.")
    document.add_heading("Limites", level=2)
    document.add_paragraph("hotel: 300 reais", style="List Bullet")
    document.add_paragraph("táxi: 80 reais", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(
        [c for row in table.rows for c in row.cells], ["cidade", "valor", "Recife", "200"], strict=True
    ):
        cell.text = text
    out = io.BytesIO()
    document.save(out)
    found = read("a.docx", out.getvalue()).documents[0]
    assert found.title == "Política de viagens"
    assert found.text == (
        "# Reembolso\n\nO pedido é feito em até 30 dias.\n\n## Limites\n\n- hotel: 300 reais\n- táxi: 80 reais\n\n"
        "| cidade | valor |\n| Recife | 200 |\n"
    )


ODT = """<office:document-content
 xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0">
<office:body><office:text><text:h text:outline-level="2">Regras<text:s text:c="2"/>gerais</text:h>
<text:p>Não se<text:tab/>fuma<text:line-break/>aqui.</text:p>
<text:list><text:list-item><text:p>um</text:p></text:list-item>
<text:list-item><text:p>dois</text:p></text:list-item></text:list>
<table:table><table:table-row><table:table-cell>
<text:p>a</text:p></table:table-cell><table:table-cell><text:p>b</text:p></table:table-cell></table:table-row>
</table:table></office:text></office:body></office:document-content>"""


def test_odt(read: Read) -> None:
    document = read(
        "a.odt", zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": ODT})
    ).documents[0]
    assert document.title == "Regras gerais"
    assert document.text == "## Regras gerais\n\nNão se fuma aqui.\n\n- um\n- dois\n\n| a | b |\n"


def epub_of(chapters: dict[str, str]) -> bytes:
    """A book with these pages as its chapters, in order."""
    items = "".join(f'<item id="i{n}" href="text/{name}" media-type="x"/>' for n, name in enumerate(chapters))
    spine = "".join(f'<itemref idref="i{n}"/>' for n in range(len(chapters)))
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="c"><rootfile full-path="OEBPS/b.opf"/></container>',
            "OEBPS/b.opf": f'<package xmlns="p"><metadata xmlns:dc="d"><dc:title>O livro</dc:title></metadata>'
            f"<manifest>{items}</manifest><spine>{spine}</spine></package>",
            **{f"OEBPS/text/{name}": text for name, text in chapters.items()},
        },
        stored="mimetype",
    )


def test_epub(read: Read) -> None:
    page = '<?xml version="1.0" encoding="utf-8"?><html xmlns="http://www.w3.org/1999/xhtml"><body><h1>{0}</h1><p>{0}!</p></body></html>'
    found = read("a.epub", epub_of({"z.xhtml": page.format("Início"), "a.xhtml": page.format("Fim")})).documents
    assert [(d.title, d.metadata["chapter"]) for d in found] == [("O livro: Início", 1), ("O livro: Fim", 2)]
    assert found[1].text == "# Fim\n\nFim!\n"


class TestStructured:
    def test_a_list_of_questions_is_records(self, read: Read) -> None:
        result = read("a.json", json.dumps([{"pergunta": "Quem?", "resposta": "Eu."}, {"prompt": "a", "output": "b"}]))
        assert [record.messages[0].content for record in result.records] == ["Quem?", "a"]

    def test_other_data_is_text(self, read: Read) -> None:
        data = [
            {"nome": "Ana", "telefones": ["1", "2"], "casa": {"rua": "Sol", "número": 5, "jardim": True}},
            {"nome": "Rui"},
        ]
        documents = read("a.json", json.dumps(data)).documents
        assert [d.title for d in documents] == ["Ana", "Rui"]
        assert (
            documents[0].text
            == "- nome: Ana\n- telefones: 1, 2\n- casa › rua: Sol\n- casa › número: 5\n- casa › jardim: yes\n"
        )

    def test_yaml(self, read: Read) -> None:
        documents = read("a.yml", "titulo: Lista\nitens:\n  - pão\n  - leite\n").documents
        assert (documents[0].title, documents[0].text) == ("Lista", "- titulo: Lista\n- itens: pão, leite\n")

    def test_xml(self, read: Read) -> None:
        document = read("a.xml", "<nota><de>Ana</de><!-- x --><corpo>Oi, <b>Rui</b>!</corpo><vazio/></nota>").documents[
            0
        ]
        assert document.text == "de: Ana\n\ncorpo: Oi, Rui!\n"


def test_zip_of_several_formats(read: Read) -> None:
    inner = zipped({"fundo.txt": "lá dentro"})
    data = zipped({
        "docs/a.md": "# Olá\n\nTexto.", "docs/b.html": "<p>Página</p>", "foto.png": b"\x89PNG", "mais.zip": inner,
        "q.jsonl": '{"pergunta": "a", "resposta": "b"}', "__MACOSX/a.md": "nada", ".oculto.txt": "nada",
    })  # fmt: skip
    result = read("tudo.zip", data)
    assert {d.source: d.text for d in result.documents} == {
        "tudo.zip/docs/a.md": "# Olá\n\nTexto.", "tudo.zip/docs/b.html": "Página\n",
        "tudo.zip/mais.zip/fundo.txt": "lá dentro",
    }  # fmt: skip
    assert [record.place for record in result.records] == ["tudo.zip/q.jsonl:1"]
    assert [fault.place for fault in result.bad] == ["tudo.zip/foto.png"]
