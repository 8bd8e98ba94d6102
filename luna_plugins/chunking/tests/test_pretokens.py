"""Counting by words gives the tokenizer's own counts."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_chunking import pretokens
from luna_plugin_chunking.measure import Tokens

from luna_kernel.data.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "exemplos").glob("*.md")))
PIECES = st.sampled_from(
    ["Não", " é", "'s", "'S", "'ll", " 'T", "1234567", " 12", "½", "R$ 1.500,00", "…", "—", "\n", "\r\n", " ", "  ",
     "\t", "\u00a0", "\u2028", "\x1c", "\x85", "e\u0301", "ª", "ſ", "K", "Ǆ", "ⁿ", "→", "😀", "日本", "…\n\n", "a_b",
     "\ud800"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=120), st.lists(PIECES, max_size=25).map("".join))


@pytest.fixture(scope="module", params=["llama3", "gpt2"])
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    Tokenizer.train([TEXT], vocab_size=700).save(folder)
    path = folder / "tokenizer.json"
    if request.param == "gpt2":
        description = json.loads(path.read_text(encoding="utf-8"))
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        description["pre_tokenizer"] = byte_level
        path.write_text(json.dumps(description), encoding="utf-8")
    return path


def test_counts_are_those_of_the_tokenizer(file: Path) -> None:
    raw = tokenizers.Tokenizer.from_file(str(file))
    measure = Tokens(file)
    assert measure.additive

    def expected(text: str) -> int:
        plain = text.encode("utf-8", "replace").decode()
        return len(raw.encode(plain, add_special_tokens=False).ids)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(TEXTS, max_size=4), st.integers(1, 30))
    def check(texts: list[str], limit: int) -> None:
        assert measure.sizes(texts) == [expected(text) for text in texts]
        for text in texts:
            place = measure.reach(text, 0, len(text), limit)
            assert place == len(text) or not text[:place] or expected(text[:place]) <= limit + 4

    check()
    assert measure.sizes([TEXT]) == [expected(TEXT)]


def test_letters_and_numbers_are_those_of_unicode() -> None:
    plain, letter, number, white = (
        re.compile(f"[{kind}]") for kind in (pretokens.PLAIN, pretokens.LETTERS, pretokens.NUMBERS, pretokens.WHITE)
    )
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if not plain.match(character):
            continue
        category = unicodedata.category(character)
        assert bool(letter.match(character)) == category.startswith("L"), hex(code)
        assert bool(number.match(character)) == category.startswith("N"), hex(code)
        spaces = category in ("Zs", "Zl", "Zp") or character in "\t\n\v\f\r\x85"
        assert bool(white.match(character)) == spaces, hex(code)


def test_words_are_forgotten_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretokens, "_ROOM", 10)
    asked: list[str] = []

    def count(words: list[str]) -> list[int]:
        asked.extend(words)
        return [len(word) for word in words]

    counts = pretokens.WordCounts(pretokens.LLAMA3, count)
    for _ in range(2):
        assert counts.sizes(["palavra comprida"]) == [16]
    assert counts.sizes(["palavra"]) == [7]
    assert asked.count("palavra") > 1


def test_a_tokenizer_that_draws_lots_is_measured_as_a_whole(file: Path, tmp_path: Path) -> None:
    description = json.loads(file.read_text(encoding="utf-8"))
    description["model"]["dropout"] = 0.5
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(description), encoding="utf-8")
    assert not Tokens(path).additive
