"""Readers: rows in = records + reported, and every fault says where and why."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import UsageError, WorkerError
from luna_kernel.contracts.data import Message
from luna_kernel.data import reading
from luna_kernel.data.readers import CsvReader, JsonlReader, MarkdownReader, TextReader
from luna_kernel.data.reading import find_files, read_files, read_path, readers_by_extension
from luna_kernel.plugins import load_plugins


@pytest.fixture(scope="module")
def registry():
    return load_plugins("none").registry


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setenv("LUNA_LANG", "en")


def jsonl(*lines):
    return JsonlReader().read("\n".join(lines).encode(), "f.jsonl")


def test_every_shape_of_jsonl():
    result = jsonl(
        '{"messages": [{"role": "user", "content": "oi"}, {"role": "assistant", "content": "olá", "thinking": "hm"}]}',
        '{"instruction": "some", "input": "2 e 2", "output": "4"}',
        '{"instruction": "diga", "input": "", "output": "a"}',
        '{"prompt": "p", "response": "r"}',
        '{"system": "s", "pergunta": "p", "resposta": "r"}',
        '{"question": "p", "answer": "r"}',
        '{"text": "um texto"}',
        '{"conversations": [{"from": "human", "value": "oi"}, {"from": "gpt", "value": "olá"}]}',
        "",
    )
    assert result.bad == []
    talks = [[(m.role, m.content) for m in r.messages] for r in result.records]
    assert talks[0] == [("user", "oi"), ("assistant", "olá")]
    assert result.records[0].messages[1].thinking == "hm"
    assert talks[1] == [("user", "some\n\n2 e 2"), ("assistant", "4")]
    assert talks[2] == [("user", "diga"), ("assistant", "a")]
    assert talks[4] == [("system", "s"), ("user", "p"), ("assistant", "r")]
    assert result.records[6].text == "um texto"
    assert talks[7] == [("user", "oi"), ("assistant", "olá")]
    assert [r.place for r in result.records] == [f"f.jsonl:{n}" for n in range(1, 9)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a"', "JSON"),
        ('{"text": NaN}', "NaN"),
        ('{"text": "a", "text": "b"}', "twice"),
        ('{"text": 3}', "not text"),
        ('{"text": " "}', "empty"),
        ('{"text": "\\ud800"}', "surrogate"),
        ('["text"]', "object"),
        ('{"texto_": "a"}', "keys: texto_"),
        ('{"messages": []}', "messages"),
        ('{"messages": ["a"]}', "role and content"),
        ('{"messages": [{"role": "root", "content": "a"}]}', "root"),
        ("[" * 100_000, "deep"),
        ('{"text": ' + "1" * 5000 + "}", "digits"),
    ],
)
def test_bad_lines_say_why(line, reason):
    result = jsonl('{"text": "antes"}', line, '{"text": "depois"}')
    assert [r.text for r in result.records] == ["antes", "depois"]
    assert [b.place for b in result.bad] == ["f.jsonl:2"]
    assert reason in result.bad[0].reason


def test_lines_end_at_newlines_only_and_each_has_its_encoding():
    lines = ['{"text": "a\u2028b\u0085c"}'.encode(), '{"text": "não"}'.encode("latin-1"), '{"text": "não"}'.encode()]
    result = JsonlReader().read(b"\xef\xbb\xbf" + b"\r\n".join(lines), "f")
    assert [r.text for r in result.records] == ["a\u2028b\u0085c", "não", "não"]
    wide = '{"text": "não"}\n{"text": "sim"}\n'.encode("utf-16")
    assert [r.text for r in JsonlReader().read(wide, "f").records] == ["não", "sim"]


@given(
    st.lists(
        st.sampled_from(['{"text": "a"}', "{", "", "  ", '{"text": 1}', "x" * 50, '{"text": "\u00e7"}']), max_size=40
    )
)
@settings(max_examples=80, deadline=None)
def test_rows_in_are_records_and_reported(lines):
    result = jsonl(*lines)
    assert len(result.records) + len(result.bad) == sum(1 for line in lines if line.strip())


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_csv_as_excel_and_others_write_it(delimiter, encoding):
    rows = [
        ["pergunta", "resposta"],
        ["Você é?", '"Sou, ""sim""; claro"'],
        ["Duas", '"linhas\naqui"'],
        ['5" de tela', "ok"],
    ]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    result = CsvReader().read(text.encode(encoding), "f.csv")
    assert result.bad == []
    assert [[m.content for m in r.messages] for r in result.records] == [
        ["Você é?", 'Sou, "sim"; claro'],
        ["Duas", "linhas\naqui"],
        ['5" de tela', "ok"],
    ]
    assert [r.place for r in result.records] == ["f.csv:2", "f.csv:3", "f.csv:5"]


def test_an_unclosed_quote_costs_one_row():
    rows = ["pergunta;resposta", 'a;"nunca fecha', *[f"p{n};r{n}" for n in range(50)], 'b;"fecha"x', "c;d;e", "só uma"]
    result = CsvReader().read("\n".join(rows).encode(), "f.csv")
    assert len(result.records) == 50
    assert [(b.place, b.reason.split()[-1]) for b in result.bad] == [
        ("f.csv:2", "field"),
        ("f.csv:53", "field"),
        ("f.csv:54", "2"),
        ("f.csv:55", "2"),
    ]
    only = CsvReader().read(b'pergunta,resposta\na,"b\nc,d\n', "f.csv")
    assert [b.place for b in only.bad] == ["f.csv:2"]
    assert "never closed" in only.bad[0].reason
    assert len(only.records) == 1


@given(st.text(st.sampled_from('ab;,\t"\n\r é'), max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_csv_body_is_read_to_the_end(body):
    result = CsvReader().read(("pergunta;resposta\n" + body).encode(), "f.csv")
    places = [int(item.place.split(":")[1]) for item in (*result.records, *result.bad)]
    assert len(set(places)) == len(places)


def test_csv_without_known_columns():
    with pytest.raises(UsageError, match="a;b") as caught:
        CsvReader().read(b"a;b\n1;2\n", "f.csv")
    assert "pergunta" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# Um título #\n\ntexto", "Um título"),
        ("```\n# código\n```\n\n## Depois\n", "Depois"),
        ("Sublinhado\n===\n", "Sublinhado"),
        ("sem título", "notas"),
        ("#semespaço\n", "notas"),
    ],
)
def test_markdown_titles(text, title):
    document = MarkdownReader().read(text.encode(), "pasta/notas.md").documents[0]
    assert document.title == title
    assert document.text == text


def test_text_is_nfc_with_plain_newlines():
    document = TextReader().read("na\u0303o\r\nsim\r".encode(), "a/b.txt").documents[0]
    assert (document.text, document.title, document.source) == ("não\nsim\n", "b", "a/b.txt")
    assert document.metadata == {"encoding": "utf-8"}
    assert TextReader().read(b"", "v.txt").bad[0].place == "v.txt"
    with pytest.raises(UsageError, match="not a text file"):
        TextReader().read(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "i.txt")


# --- from paths -------------------------------------------------------------------------------------------------------


def test_files_folders_and_patterns(registry, tmp_path):
    (tmp_path / "sub" / ".oculta").mkdir(parents=True)
    for name in ("b.txt", "a.md", "sub/c.JSONL", "sub/x.bin", ".d.txt", "sub/.oculta/e.txt"):
        (tmp_path / name).write_text('{"text": "a"}')
    known = readers_by_extension(registry)
    names = lambda paths: [p.name for p in find_files(paths, known)]  # noqa: E731
    assert names([tmp_path]) == ["a.md", "b.txt", "c.JSONL"]
    assert names([tmp_path / "b.txt", tmp_path]) == ["b.txt", "a.md", "c.JSONL"]
    assert names([str(tmp_path / "**" / "*.JSONL")]) == ["c.JSONL"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("nada.txt", "does not exist"), ("vazia", "no file"), ("x.bin", "No reader"), ("*.md", "No readable file")],
)
def test_what_cannot_be_found_says_so(registry, tmp_path, name, text):
    (tmp_path / "vazia").mkdir()
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(UsageError, match=text) as caught:
        find_files([tmp_path / name], readers_by_extension(registry))
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_a_bad_line_stops_with_file_and_line_or_is_skipped(registry, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "um"}\n{"text": \n{"text": "dois"}\n')
    (tmp_path / "b.txt").write_bytes("Até amanhã".encode("latin-1"))
    (tmp_path / "c.txt").write_bytes(b"\x7fELF\0\0\0\0")
    with pytest.raises(UsageError, match=r"a\.jsonl:2: ") as caught:
        read_path(tmp_path, registry)
    assert "--skip-bad" in str(caught.value)
    result = read_path(tmp_path, registry, skip_bad=True, root=tmp_path)
    assert [r.text for r in result.records] == ["um", "dois"]
    assert [d.text for d in result.documents] == ["Até amanhã"]
    assert [b.place for b in result.bad] == ["a.jsonl:2", "c.txt"]


def test_large_files_come_in_pieces_with_the_right_lines(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PIECE_BYTES", 100)
    lines = [json.dumps({"text": f"texto número {n}"}) for n in range(50)]
    lines[30] = "{"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    bad = []
    pieces = list(read_files([path], registry, skip_bad=True, whole=False, on_bad=bad.append))
    assert len(pieces) > 5
    records = [record for piece in pieces for record in piece.result.records]
    assert [r.text for r in records] == [f"texto número {n}" for n in range(50) if n != 30]
    assert [r.place for r in records] == [f"{path}:{n + 1}" for n in range(50) if n != 30]
    assert [b.place for b in bad] == [f"{path}:31"]
    with pytest.raises(UsageError, match="too large"):
        list(read_files([path], registry, max_bytes=200))


def test_a_reader_that_kills_its_process_costs_one_error(registry, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    monkeypatch.setattr(reading, "SECONDS", 0.0001)
    with pytest.raises(WorkerError, match=r"a\.jsonl"):
        read_path(path, registry)
    monkeypatch.undo()
    assert read_path(path, registry).records[0].text == "a"


def test_messages_survive_the_worker(registry, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Olá"}, {"role": "assistant", "content": "Oi"}]}\n')
    assert read_path(path, registry).records[0].messages == (Message("user", "Olá"), Message("assistant", "Oi"))


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_of_two_gigabytes_is_refused_before_it_is_read(registry, tmp_path, whole):
    file = tmp_path / "large.txt"
    with file.open("wb") as opened:
        opened.truncate(2 << 30)  # sparse: it takes no room
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"large\.txt"):
        list(read_files([file], registry, whole=whole))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20
