"""Conditions on passages, fusion by scores, and passages that are unlike each other."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.filters import parse_filters
from luna_plugin_rag.fusion import diverse, fuse
from luna_plugin_rag.knowledge_base import KnowledgeBase

from luna_kernel.base.errors import UsageError
from luna_kernel.contracts.knowledge import StoredChunk
from luna_kernel.contracts.retrievers import Hit
from luna_kernel.plugins.registry import Registry


def chunk(**metadata: Any) -> StoredChunk:
    return StoredChunk(1, 1, "leis/Ação[1].md", "Lei", "Lei > Prazos", "texto", 50, 55, 7, metadata)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source=*.md", True), ("source=leis/acao[1].md", True), ("source = *.txt", False), ("source!=*.txt", True),
        ("source!=*.md", False), ("line>=7", True), ("line>7", False), ("line<10", True), ("line=7.0", True),
        ("page=2", True), ("page>2", False), ("ano<2020", True), ("ano>1000", True), ("ano=20*", False),
        ("data>=2024-05-01", True), ("data<2024-05-01", False), ("data>5", False), ("autor=ANDRÉ*", True),
        ("tags=b", True), ("tags!=b", False), ("tags!=c", True), ("autor", True), ("editora", False),
        ("editora!=x", True), ("editora<x", False), ("vazio", False), ("oculto=true", True), ("heading=*prazos", True),
    ],
)  # fmt: skip
def test_conditions(text: str, expected: bool) -> None:
    known = {"ano": 1999, "data": "2024-06-01", "autor": "André Luís", "tags": ["a", "b"], "vazio": "", "oculto": True}
    (condition,) = parse_filters([text])
    assert condition.holds(chunk(page_starts=[0, 40, 60], **known)) is expected


@pytest.mark.parametrize("text", ["", "=x", "source=", "a b=c", "page>=", "é!!=1"])
def test_what_is_no_condition_is_said(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_filters([text])
    assert "source=*.md" in str(caught.value.hint)


def test_a_search_finds_what_is_allowed_however_deep(
    write: Callable[..., Path], tmp_path: Path, registry: Registry
) -> None:
    docs = write(**{f"a{i:03}.txt": f"O sino da capela número {i} pesa muito." for i in range(120)})
    write(**{"z.md": "# Torre\n\nNa torre há um sino pequeno, entre muitas outras coisas de que se fala pouco aqui.\n"})
    with KnowledgeBase(tmp_path / "kb", registry) as kb:
        kb.sync([docs])

        def sources(*texts: str, k: int = 3) -> list[str]:
            found = kb.search("sino da capela", k, threshold=0, filters=parse_filters(texts))
            return [passage.source for passage in found.passages]

        assert "z.md" not in sources()
        assert sources("source=*.md") == ["z.md"]
        assert sources("source=*.pdf") == []
        assert set(sources("source=a00*", k=50)) <= {f"a00{i}.txt" for i in range(10)}
        (docs / "z.md").unlink()
        kb.sync([docs])
        assert sources("source=*.md") == []


def test_a_name_that_no_passage_knows_is_refused(
    write: Callable[..., Path], tmp_path: Path, registry: Registry
) -> None:
    docs = write(**{"a.md": "O sino pesa."})
    with KnowledgeBase(tmp_path / "kb", registry) as kb:
        kb.check_filters(parse_filters(["page>=3", "source=*.md"]))
        with pytest.raises(UsageError) as caught:
            kb.check_filters(parse_filters(["encoding=utf-8"]))
        assert caught.value.about == "filters"
        kb.sync([docs])
        kb.check_filters(parse_filters(["encoding=utf-8", "encoding!=utf-8", "line=1"]))
        for wrong in ("autor=Ana", "autor!=Ana", "autor", "page_starts"):
            with pytest.raises(UsageError) as caught:
                kb.check_filters(parse_filters(["line=1", wrong]))
            assert "encoding" in str(caught.value.hint)
            assert "page_starts" not in str(caught.value.hint)


def test_the_verb_filters(write: Callable[..., Path]) -> None:
    docs = write(**{"a.md": "O sino da capela pesa 180 quilos.\n", "b.txt": "O sino da capela pesa 90 quilos.\n"})
    base = [
        sys.executable,
        "-m",
        "luna_kernel",
        "search",
        "quanto pesa o sino",
        "--docs",
        str(docs),
        "--threshold",
        "0",
    ]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*base, *more], capture_output=True, text=True, timeout=120, check=False)

    both = run("--json")
    assert {p["source"] for p in json.loads(both.stdout)["passages"]} == {"a.md", "b.txt"}
    one = run("--json", "--filter", "source=*.txt", "--filter", "line>=1")
    assert {p["source"] for p in json.loads(one.stdout)["passages"]} == {"b.txt"}
    wrong = run("--filter", "=x")
    assert wrong.returncode == 2
    assert "source=*.md" in wrong.stderr
    unknown = run("--filter", "sorce=*.txt")
    assert unknown.returncode == 2
    assert "“source”" in unknown.stderr


def test_fusion_by_scores_uses_how_much_better() -> None:
    hits = {"a": [Hit(1, 10.0), Hit(2, 9.9)], "b": [Hit(3, 4.0), Hit(2, 0.4)]}
    assert [item.chunk_id for item in fuse(hits)] == [2, 1, 3]
    by_scores = fuse(hits, by="scores")
    assert [item.chunk_id for item in by_scores] == [2, 1, 3]
    assert by_scores[0].score == pytest.approx(0.99 + 0.1)
    assert [item.chunk_id for item in fuse(hits, {"b": 3.0}, by="scores")] == [3, 2, 1]


def test_diverse_holds_back_what_repeats() -> None:
    terms = [{"a", "b"}, {"a", "b"}, {"c"}]
    assert diverse([0.9, 0.8, 0.5], terms, 2, 0.0) == [0, 1]
    assert diverse([0.9, 0.8, 0.5], terms, 2, 0.5) == [0, 2]
    assert diverse([0.9, 0.8, 0.5], terms, 9, 1.0) == [0, 2, 1]
    assert diverse([], [], 3, 0.5) == []


def test_a_knowledge_base_gives_unlike_passages(write: Callable[..., Path], tmp_path: Path, registry: Registry) -> None:
    same = "O sino da capela pesa 180 quilos e foi fundido em bronze."
    docs = write(**{"a.txt": same, "b.txt": same, "c.txt": "A torre usa um sino novo, que ninguém pesa."})

    def second(diversity: float) -> str:
        with KnowledgeBase(tmp_path / f"kb{diversity}", registry, KnowledgeConfig(diversity=diversity)) as kb:
            kb.sync([docs])
            return kb.search("quanto pesa o sino da capela", 2, threshold=0).passages[1].source

    assert second(0.0) == "b.txt"
    assert second(1.0) == "c.txt"
