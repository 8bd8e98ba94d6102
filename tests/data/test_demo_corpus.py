"""The demo corpus holds what its README says, and nothing that would teach a small model a fault."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

DEMO = Path(str(files("luna_kernel"))) / "data" / "demo"
FILES = sorted(DEMO.glob("*.jsonl"))
THEMES = {"luna", "saudacoes", "cotidiano", "lingua", "conhecimento", "tecnologia", "sentimentos", "documentos"}
ALLOWED = re.compile(r"""[A-Za-zÀÁÂÃÇÉÊÍÓÔÕÚÜàáâãçéêíóôõúü0-9 \n.,;:!?()\[\]"'/%°ºª+=_$&<>-]+""")
PASSAGE = re.compile(r"^\[(\d+)\] \(([^()]+)\) (.+)$")
CITATION = re.compile(r"\[(\d+)\]")
NOT_FOUND = "Não encontrei essa informação nos documentos."

Message = dict[str, Any]


def dialogues(path: Path) -> list[list[Message]]:
    return [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]


ALL = [(f"{path.name}:{number}", messages) for path in FILES for number, messages in enumerate(dialogues(path), 1)]
TEXTS = [
    (where, message[key])
    for where, messages in ALL
    for message in messages
    for key in ("content", "thinking")
    if key in message
]


def grounded() -> list[tuple[str, str, str]]:
    """Every question over passages: (where, the user's message, the answer)."""
    return [
        (where, question["content"], answer["content"])
        for where, messages in ALL
        for question, answer in pairwise(messages)
        if question["role"] == "user" and question["content"].startswith("Passagens:")
    ]


def turns(messages: list[Message]) -> int:
    return sum(message["role"] == "assistant" for message in messages)


def test_every_theme_has_its_file():
    assert {path.stem for path in FILES} == THEMES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_line_is_a_dialogue(path: Path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    for number, line in enumerate(text.splitlines(), 1):
        row = json.loads(line)
        assert set(row) == {"messages"}, f"{path.name}:{number}"
        for message in row["messages"]:
            optional = {"thinking"} if message["role"] == "assistant" else set()
            assert {"role", "content"} <= set(message) <= {"role", "content"} | optional, f"{path.name}:{number}"
            assert all(isinstance(value, str) and value.strip() == value and value for value in message.values())


def test_roles_alternate_and_end_with_the_assistant():
    for where, messages in ALL:
        roles = [message["role"] for message in messages]
        if roles[0] == "system":
            roles = roles[1:]
        assert roles == ["user", "assistant"] * (len(roles) // 2), where
        assert roles, where


def test_the_corpus_is_large_enough_and_has_follow_ups():
    total = sum(turns(messages) for _, messages in ALL)
    in_conversations = sum(turns(messages) for _, messages in ALL if turns(messages) > 1)
    assert total >= 500
    assert in_conversations >= total * 0.35
    assert max(turns(messages) for _, messages in ALL) <= 5


def test_no_dialogue_occurs_twice():
    counts = Counter(json.dumps(messages, ensure_ascii=False) for _, messages in ALL)
    assert [text for text, count in counts.items() if count > 1] == []


def test_one_opening_does_not_get_two_bare_dialogues():
    """Two one-turn dialogues with the same system text and question would be one question with two answers."""
    counts = Counter(json.dumps(messages[:-1], ensure_ascii=False) for _, messages in ALL if turns(messages) == 1)
    assert [text for text, count in counts.items() if count > 1] == []


def test_text_is_clean():
    for where, text in TEXTS:
        assert "<|" not in text, where
        assert "  " not in text, where
        assert unicodedata.is_normalized("NFC", text), where
        assert ALLOWED.fullmatch(text), (where, [char for char in text if not ALLOWED.fullmatch(char)])


def test_answers_are_short_and_end_as_sentences():
    for where, messages in ALL:
        for message in messages:
            if message["role"] == "assistant":
                assert 3 <= len(message["content"].split()) <= 45, where
                assert message["content"][-1] in ".!?", (where, message["content"])


def test_styles_and_thinking_are_taught():
    assert sum(turns(messages) for _, messages in ALL if messages[0]["role"] == "system") >= 25
    assert sum("thinking" in message for _, messages in ALL for message in messages) >= 20


def test_grounded_answers_cite_passages_that_exist():
    asked = grounded()
    assert len(asked) >= 60
    refused = cited_places = 0
    seen: Counter[int] = Counter()
    for where, question, answer in asked:
        head, blank, ask = question.removeprefix("Passagens:\n").rpartition("\n\n")
        assert blank, where
        assert ask.startswith("Pergunta: "), where
        matches = [PASSAGE.match(line) for line in head.splitlines()]
        assert all(matches), where
        numbers = [int(match[1]) for match in matches if match]
        assert numbers == list(range(1, len(numbers) + 1)), where
        cited = [int(number) for number in CITATION.findall(answer)]
        assert set(cited) <= set(numbers), where
        if answer == NOT_FOUND:
            refused += 1
        else:
            assert cited, where
            cited_places += 1
            seen.update(cited)
    assert refused >= 10
    assert cited_places >= 50
    assert set(seen) >= {1, 2, 3, 4}, "the right passage should stand in different places"
    assert seen[1] <= 0.6 * seen.total()


def test_the_readme_counts_what_is_there():
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)\.jsonl` \| [^|]+ \| (\d+) \| (\d+) \|$", readme, flags=re.MULTILINE)
    stated = {name: (int(count), int(turn_count)) for name, count, turn_count in rows}
    counted = {path.stem: (len(dialogues(path)), sum(map(turns, dialogues(path)))) for path in FILES}
    assert stated == counted
    total = re.search(r"^\| \*\*all\*\* \| \| (\d+) \| (\d+) \|$", readme, flags=re.MULTILINE)
    assert total
    assert (int(total[1]), int(total[2])) == tuple(map(sum, zip(*counted.values(), strict=True)))
