"""Every strategy: exact offsets, limits that hold under the tokenizer itself, and text that is lost nowhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_chunking import chunkers
from luna_plugin_chunking.config import ChunkConfig, OverlappingConfig, SemanticConfig

from luna_kernel.contracts.data import Document
from luna_kernel.data.sentences import sentences
from luna_kernel.data.tokenizer import Tokenizer

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "docs" / "exemplos").glob("*.[mt]*"))
STRATEGIES = {
    "fixed": (chunkers.FixedChunker, ChunkConfig),
    "sentence": (chunkers.SentenceChunker, ChunkConfig),
    "semantic": (chunkers.SemanticChunker, SemanticConfig),
    "adaptive": (chunkers.AdaptiveChunker, ChunkConfig),
    "overlapping": (chunkers.OverlappingChunker, OverlappingConfig),
    "hierarchical": (chunkers.HierarchicalChunker, ChunkConfig),
    "markdown": (chunkers.MarkdownChunker, ChunkConfig),
}
PIECES = st.sampled_from(
    ["O Sr. Dr. João", " pagou R$ 1.500,00.", "\n\n", "\n", "# Título\n", "## A\n\n", "```\nx\n\ny\n```\n", "…", "!?",
     " ", "á", "e\u0301" * 3, "👩‍👩‍👧", "\u2028", "a" * 60, "- item\n", "1. Artigo\n\n", "Fim. ", "\t", "\u00a0",
     "\x1c", "<|end|>", "\r\n", "— Disse. ", "'s. 's", "\ud800"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=400), st.lists(PIECES, max_size=40).map("".join))


@cache
def tokenizer_folder(kind: str, folder: Path) -> Path:
    text = "\n".join(path.read_text(encoding="utf-8") for path in EXAMPLES)
    if kind == "luna":
        Tokenizer.train([text], vocab_size=600).save(folder)
        return folder
    made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", *bytes_], show_progress=False)
    made.train_from_iterator([text[:20_000]], trainer)
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session", params=["characters", "words", "luna", "sentencepiece"])
def unit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if request.param in ("characters", "words"):
        return {"unit": request.param}
    return {"tokenizer": str(tokenizer_folder(request.param, tmp_path_factory.mktemp(request.param)))}


def size_in(unit: dict[str, str], text: str) -> int:
    if "tokenizer" not in unit:
        return len(text.split()) if unit["unit"] == "words" else len(text)
    raw = tokenizers.Tokenizer.from_file(unit["tokenizer"] + "/tokenizer.json")
    return len(raw.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False))


@pytest.mark.parametrize("name", STRATEGIES)
def test_limits_and_offsets_on_any_text(name: str, unit: dict[str, str]) -> None:
    kind, config = STRATEGIES[name]
    own = {"overlap": 8} if name == "overlapping" else {}
    chunker = kind(config(max_size=24, min_size=8, **unit, **own))

    @settings(max_examples=60, deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        chunks = chunker.chunk(Document(text, "x"))
        assert all(text[chunk.start : chunk.end] == chunk.text != "" for chunk in chunks)
        assert [c.start for c in chunks] == sorted(c.start for c in chunks)
        if not text.strip():
            assert chunks == []
        elif name == "overlapping":
            assert set(range(len(text))) == {place for c in chunks for place in range(c.start, c.end)}
        else:
            assert "".join(chunk.text for chunk in chunks) == text
        assert all(size_in(unit, chunk.text) <= 24 for chunk in chunks)

    check()


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_documents(name: str, path: Path, unit: dict[str, str]) -> None:
    kind, config = STRATEGIES[name]
    text = path.read_text(encoding="utf-8")
    chunks = kind(config(max_size=250, min_size=60, **unit)).chunk(Document(text, "x"))
    assert all(text[c.start : c.end] == c.text and size_in(unit, c.text) <= 250 for c in chunks)
    assert name == "overlapping" or "".join(c.text for c in chunks) == text


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(16, 80), st.booleans())
def test_looking_near_the_limits_alone_cuts_at_ends_of_sentences(text: str, limit: int, paragraphs: bool) -> None:
    config = ChunkConfig(max_size=limit, min_size=limit // 3, preserve_paragraphs=paragraphs)
    chunks = chunkers.SentenceChunker(config).chunk(Document(text, "x"))
    assert "".join(chunk.text for chunk in chunks) == (text if text.strip() else "")
    assert all(0 < len(chunk.text) <= limit for chunk in chunks)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_no_chunk_cuts_a_sentence_that_fits(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    spans = list(sentences(text))
    longest = max(end - start for start, end in spans)
    chunks = chunkers.SentenceChunker(ChunkConfig(max_size=longest + 200, min_size=50)).chunk(Document(text, "x"))
    assert {chunk.end for chunk in chunks} <= {end for _, end in spans}
