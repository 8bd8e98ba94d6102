"""A model that has learnt to think does so for who asks, streamed and not, and its thought stays apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from .conftest import Served

ASKED: dict[str, Any] = {
    "model": "luna", "temperature": 0, "max_tokens": 40, "extra_body": {"repetition_penalty": 1},
    "messages": [{"role": "user", "content": "Quanto é 3 mais 4?"}],
}  # fmt: skip
THOUGHT, ANSWER = "Somo 3 e 4.", "São 7."


@pytest.fixture
def client(thinking: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{thinking.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.slow
def test_whole(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASKED, reasoning_effort="low")
    message = answer.choices[0].message
    assert (message.content, message.model_extra) == (ANSWER, {"reasoning_content": THOUGHT})
    assert answer.usage is not None
    details = answer.usage.completion_tokens_details
    assert details is not None
    assert details.reasoning_tokens is not None
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens
    again = {"role": "user", "content": "Quanto é 1 mais 2?"}
    asked = {**ASKED, "messages": [*ASKED["messages"], message.model_dump(exclude_none=True), again]}
    assert client.chat.completions.create(**asked).choices[0].message.content


@pytest.mark.slow
def test_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(**ASKED, reasoning_effort="low", stream=True, n=2)
    said: dict[int, list[tuple[str, str]]] = {0: [], 1: []}
    for event in stream:
        for choice in event.choices:
            thought = (choice.delta.model_extra or {}).get("reasoning_content")
            if thought:
                said[choice.index].append(("thought", thought))
            if choice.delta.content:
                said[choice.index].append(("answer", choice.delta.content))
    for pieces in said.values():
        kinds = [kind for kind, _ in pieces]
        assert kinds == sorted(kinds, reverse=True), "the thought comes first"
        for kind, text in (("thought", THOUGHT), ("answer", ANSWER)):
            assert "".join(piece for found, piece in pieces if found == kind) == text


@pytest.mark.slow
def test_unasked_it_does_not_think(client: openai.OpenAI) -> None:
    for effort in ({}, {"reasoning_effort": "none"}):
        message = client.chat.completions.create(**ASKED, **effort).choices[0].message
        assert not message.model_extra
        assert message.content


def test_a_model_that_cannot_think_says_so(served: Served) -> None:
    body = {"model": "luna", "messages": [{"role": "user", "content": "Oi"}], "reasoning_effort": "high"}
    response = served.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "reasoning_effort"
    assert "papagaio" in error["message"]
