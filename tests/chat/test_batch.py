"""Questions from a file to a file: forms, per-question options, resuming, failures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from luna_kernel.base.errors import UsageError
from luna_kernel.chat.batch import JOURNAL, read_queries, run_batch
from luna_kernel.chat.session import Session, SessionOptions
from luna_kernel.contracts.chat import Sampling


@pytest.fixture
def session(plugins, echo):
    opened = Session(plugins, echo, options=SessionOptions(sampling=Sampling(temperature=0.1)))
    yield opened
    opened.close()


def write(path: Path, data: object) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


QUERIES = [{"query": "um", "temperature": 0.9, "max_tokens": 5}, {"query": "dois", "system": "seja breve"}]


def run(session: Session, source: Path, output: Path, **options) -> tuple[int, list[str]]:
    said: list[str] = []
    return run_batch(session, read_queries(source), output, say=said.append, **options), said


def test_json_to_json(session, tmp_path: Path, monkeypatch):
    asked = []
    ask = session.ask
    monkeypatch.setattr(
        session, "ask", lambda query: asked.append((session.options.sampling, session.options.context)) or ask(query)
    )
    status, said = run(session, write(tmp_path / "a.json", QUERIES), tmp_path / "r.json")
    assert status == 0
    results = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert [(item["query"], item["answer"]) for item in results] == [("um", "um "), ("dois", "dois ")]
    assert asked == [(Sampling(temperature=0.9, max_tokens=5), ""), (Sampling(temperature=0.1), "seja breve")]
    assert len({item["session"] for item in results}) == 2, "each question is a conversation of its own"
    assert session.options == SessionOptions(sampling=Sampling(temperature=0.1)), "nothing stays changed"
    assert not (tmp_path / f"r.json{JOURNAL}").exists()
    assert said[0].startswith("[1/2]")


def test_text_and_lines(session, tmp_path: Path):
    source = write(tmp_path / "perguntas.txt", "um\n\n  dois três\n")
    assert run(session, source, tmp_path / "respostas.txt")[0] == 0
    assert (tmp_path / "respostas.txt").read_text(encoding="utf-8") == "> um\num\n\n> dois três\ndois três\n\n"
    run(session, write(tmp_path / "a.jsonl", '{"query": "um"}\n\n{"query": "dois"}\n'), tmp_path / "r.jsonl")
    lines = (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["answer"] for line in lines] == ["um ", "dois "]


def test_an_interrupted_batch_goes_on(session, tmp_path: Path, monkeypatch):
    source, output = write(tmp_path / "a.txt", "um\ndois\ntrês\n"), tmp_path / "r.json"
    ask, asked = session.ask, []

    def stop_at_two(query: str):
        asked.append(query)
        if asked == ["um", "dois"]:
            raise KeyboardInterrupt
        return ask(query)

    monkeypatch.setattr(session, "ask", stop_at_two)
    with pytest.raises(KeyboardInterrupt):
        run(session, source, output)
    assert not output.exists()
    with (tmp_path / f"r.json{JOURNAL}").open("a", encoding="utf-8") as journal:
        journal.write('{"number": 2, "ans')  # as a power cut leaves it
    status, said = run(session, source, output)
    assert status == 0
    assert asked == ["um", "dois", "dois", "três"], "what was answered is not asked again"
    assert "1" in said[0]
    assert [item["answer"] for item in json.loads(output.read_text(encoding="utf-8"))] == ["um ", "dois ", "três "]


def test_what_fails_is_told_and_the_rest_answered(session, tmp_path: Path, monkeypatch):
    ask = session.ask

    def fail_once(query: str):
        if query == "um":
            raise UsageError("não deu")
        return ask(query)

    monkeypatch.setattr(session, "ask", fail_once)
    status, said = run(session, write(tmp_path / "a.txt", "um\ndois\n"), tmp_path / "r.json")
    assert status == 2
    assert "não deu" in said[0]
    first, second = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert (first["error"]["message"], second["answer"]) == ("não deu", "dois ")


def test_nothing_is_overwritten(session, tmp_path: Path):
    source, output = write(tmp_path / "a.txt", "um\n"), write(tmp_path / "r.txt", "meu")
    with pytest.raises(UsageError):
        run(session, source, output)
    assert output.read_text(encoding="utf-8") == "meu"
    assert run(session, source, output, replace_output=True)[0] == 0
    other = write(tmp_path / "s.txt.part", '{"batch": "of something else"}\n')
    with pytest.raises(UsageError, match=r"s\.txt\.part"):
        run(session, source, tmp_path / "s.txt")
    assert "something else" in other.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "JSON"),
        ("a.json", "[]", "perguntas"),
        ("a.json", '{"query": "um"}', "perguntas"),
        ("a.json", '[{"persona": "formal"}]', "1"),
        ("a.json", '[{"query": "um"}, {"query": 3}]', "2"),
        ("a.json", '[{"query": "um", "temperatura": 1}]', "temperatura"),
        ("a.json", '[{"query": "um", "temperature": -1}]', "temperature"),
        ("a.json", '[{"query": "um", "persona": 3}]', "persona"),
        ("a.json", '[{"query": "  "}]', "1"),
        ("a.jsonl", '{"query": "um"}\nnada\n', "JSON"),
        ("a.txt", "\n\n", "perguntas"),
    ],
)
def test_bad_files(tmp_path: Path, home: Path, name: str, text: str, said: str):
    with pytest.raises(UsageError) as caught:
        read_queries(write(tmp_path / name, text))
    assert said in caught.value.text
    assert caught.value.hint or "1" in caught.value.text
