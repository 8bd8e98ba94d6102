"""Conditions on passages in a request, through a real server over real documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Served

CHAT = "/v1/chat/completions"


def body(*filters: Any, **luna: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": "Quanto pesa o sino da capela?"}]
    return {"model": "luna", "messages": asked, "max_tokens": 2, "luna": {"filters": list(filters), **luna}}


@pytest.fixture(scope="module")
def reading(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pytest.importorskip("luna_plugin_rag")
    docs = tmp_path_factory.mktemp("docs")
    (docs / "a.md").write_text("O sino da capela pesa 180 quilos.\n", encoding="utf-8")
    (docs / "b.txt").write_text("O sino da capela pesa 90 quilos, diz o livro velho.\n", encoding="utf-8")
    server = Served(home, "--docs", str(docs), plugins="serve,rag")
    yield server
    server.stop()


def sources(server: Served, *filters: str) -> set[str]:
    answer = server.post(CHAT, json=body(*filters))
    assert answer.status_code == 200, answer.text
    return {passage["source"] for passage in answer.json()["luna"]["passages"]}


def test_passages_are_filtered_and_the_next_request_is_not(reading: Served) -> None:
    assert sources(reading) == {"a.md", "b.txt"}
    assert sources(reading, "source=*.txt") == {"b.txt"}
    assert sources(reading, "source=*.md", "line<=1") == {"a.md"}
    assert sources(reading, "source=*.md", "line>1") == set()
    assert sources(reading) == {"a.md", "b.txt"}


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        (["=x"], "luna.filters"), (["sorce=*.md"], "luna.filters"), (["sorce!=*.md"], "luna.filters"),
        ([""], "luna.filters.0"), ([3], "luna.filters.0"), (["line=1"] * 21, "luna.filters"),
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused(reading: Served, filters: list[Any], field: str) -> None:
    for more in ({}, {"rag": False}):
        answer = reading.post(CHAT, json=body(*filters, **more))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field
    assert sources(reading) == {"a.md", "b.txt"}, "the server goes on"


def test_the_refusal_says_which_names_there_are(reading: Served) -> None:
    message = reading.post(CHAT, json=body("sorce=*.md")).json()["error"]["message"]
    assert "source" in message
    assert "heading" in message


def test_without_documents_conditions_are_refused(served: Served) -> None:
    answer = served.post(CHAT, json=body("source=*.md"))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "luna.filters"
    assert served.post(CHAT, json=body()).status_code == 200
