"""The tokenizer: lossless for any text, and no text ever becomes a control id."""

import json
import multiprocessing
import unicodedata

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.data import tokenizer as module
from luna_kernel.data.tokenizer import CONTROL_TOKENS, MIN_VOCAB_SIZE, SPLIT_PATTERN, Tokenizer

FULL_WIDTH = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})


def disguises(name):
    """Eleven ways to write a control token that a careless pipeline turns back into it."""
    inner = name.strip("<|>")
    return [
        name,
        name.upper(),
        name.translate(FULL_WIDTH),
        name.replace("|", "\uff5c"),
        "\u200b".join(name),
        f"<\u200b|{inner}|>",
        f"<|\ufeff{inner}|>",
        f"< | {inner} | >",
        f"<|{inner[0]}\u00ad{inner[1:]}|>",
        unicodedata.normalize("NFKC", name.translate(FULL_WIDTH)),
        f"&lt;|{inner}|&gt; \\u003c|{inner}|\\u003e {name[:3]}",
    ]


def all_disguises():
    return [text for name in CONTROL_TOKENS for text in disguises(name)]


def leaks(tokenizer, text):
    return set(tokenizer.encode(text)) & set(tokenizer.controls.values())


@given(st.text())
@example("\x00\u2028\u0085\U0001f469\u200d\U0001f680 \u0301e\u0301")
@example("   \n\n\t  fim  ")
@settings(max_examples=300, deadline=None)
def test_lossless_for_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer._encode_slowly(text)) == text


@given(st.text(st.characters(max_codepoint=0x20AC, exclude_categories=["Cs"])))
@example("ſ's 'S 'LL d'água \x85\xa0\u2028")
@settings(max_examples=300, deadline=None)
def test_fast_path_gives_equal_ids(tokenizer, text):
    pytest.importorskip("tiktoken")
    assert tokenizer.is_fast
    assert tokenizer.encode(text) == tokenizer._encode_slowly(text)


@given(st.text(), st.sampled_from(all_disguises()), st.text())
@settings(max_examples=300, deadline=None)
def test_no_text_becomes_a_control_id(tokenizer, before, control, after):
    text = before + control + after
    assert not leaks(tokenizer, text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_disguise_gets_through_after_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    opened = Tokenizer.load(tmp_path)
    for text in all_disguises():
        assert not leaks(opened, text)
        assert opened.encode(text) == tokenizer.encode(text)
    assert opened.controls == tokenizer.controls
    assert opened.vocab_size == tokenizer.vocab_size


def encode_in_worker(folder, tokenizer, texts, queue):
    loaded = Tokenizer.load(folder)
    queue.put([[loaded.encode(text), tokenizer.encode(text)] for text in texts])


def test_no_disguise_gets_through_in_a_spawned_worker(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=encode_in_worker, args=(str(tmp_path), tokenizer, all_disguises(), queue))
    worker.start()
    answers = queue.get(timeout=60)
    worker.join(30)
    controls = set(tokenizer.controls.values())
    for (loaded, sent), text in zip(answers, all_disguises(), strict=True):
        assert loaded == sent == tokenizer.encode(text)
        assert not controls & set(loaded)


def test_the_file_is_the_ecosystems_format_with_special_tokens(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    foreign = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "Olá, à beira-mar! <|end|>"
    assert foreign.encode("Olá, à beira-mar! ").ids == tokenizer.encode("Olá, à beira-mar! ")
    assert foreign.encode(text).ids[-1] == tokenizer.end_id  # the trap that Luna's own object does not have
    assert tokenizer.end_id not in tokenizer.encode(text)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    assert content["normalizer"] is None
    assert content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == SPLIT_PATTERN
    assert [item["content"] for item in content["added_tokens"]] == list(CONTROL_TOKENS)
    assert all(item["special"] for item in content["added_tokens"])


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_stream_gives_whole_characters(tokenizer, text):
    stream = tokenizer.stream()
    pieces = [stream.push(id_) for id_ in tokenizer.encode(text)]
    assert "".join(pieces) + stream.flush() == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


def test_stream_waits_for_the_last_byte_and_drops_a_torn_one(tokenizer):
    ids = tokenizer.encode("\U0001f680")
    assert len(ids) > 1
    stream = tokenizer.stream()
    assert [stream.push(id_) for id_ in ids] == [""] * (len(ids) - 1) + ["\U0001f680"]
    stream = tokenizer.stream()
    assert list(stream.feed([*tokenizer.encode("oi"), *ids[:-1]]))[-1] != "\ufffd"
    assert stream.flush() == ""


def test_no_character_of_two_bytes_is_torn_by_the_stream(tokenizer):
    """Every one of them, one id at a time: where its bytes are two ids, the first gives nothing."""
    split = 0
    for code in range(0x80, 0x800):
        text = f"a{chr(code)}b"
        ids = tokenizer.encode(text)
        stream = tokenizer.stream()
        pieces = [stream.push(id_) for id_ in ids]
        assert "".join(pieces) + stream.flush() == text
        assert not any("\ufffd" in piece for piece in pieces)
        split += len(ids) > 3
    assert split > 1500


def test_controls_are_hidden_or_shown(tokenizer):
    ids = [tokenizer.control_id("<|user|>"), *tokenizer.encode("oi"), tokenizer.end_id]
    assert tokenizer.decode(ids) == "oi"
    assert tokenizer.decode(ids, controls=True) == "<|user|>oi<|end|>"
    with pytest.raises(ValueError, match="no control token"):
        tokenizer.control_id("<|root|>")


def test_bytes_of_tokens_add_up(tokenizer):
    text = "não dá, João: 3,5 €"
    lengths = tokenizer.byte_lengths()
    assert sum(lengths[id_] for id_ in tokenizer.encode(text)) == len(text.encode())
    assert lengths[tokenizer.end_id] == 0


def test_halves_of_surrogate_pairs_are_replaced(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_without_tiktoken_the_ids_are_the_same(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "_fast_path", lambda *_: None)
    slow = Tokenizer(tokenizer.to_json())
    assert not slow.is_fast
    assert slow.encode("Dá-me um café, João.") == tokenizer.encode("Dá-me um café, João.")


def test_ranks_that_tiktoken_cannot_follow_leave_the_fast_path_off(tokenizer):
    content = json.loads(json.dumps(tokenizer.to_json()))
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    assert not Tokenizer(content).is_fast


def test_clitics_are_kept_apart_and_numbers_in_threes(tokenizer):
    pre = tokenizer._text.pre_tokenizer
    pieces = [piece for piece, _ in pre.pre_tokenize_str("disse-lhe 12345")]
    assert pieces == ["disse", "-lhe", "Ġ", "123", "45"]


def test_vocabulary_too_small_is_refused():
    with pytest.raises(UsageError, match=str(MIN_VOCAB_SIZE)):
        Tokenizer.train(["a"], 100)


@pytest.mark.parametrize("change", [{"normalizer": {"type": "NFKC"}}, {"model": {"type": "WordPiece", "vocab": {}}}])
def test_other_kinds_of_tokenizers_are_refused(tokenizer, change):
    with pytest.raises(UsageError):
        Tokenizer({**tokenizer.to_json(), **change})


def test_missing_control_token_is_named(tokenizer):
    dialogue = {**tokenizer.dialogue, "end": "<|fim|>"}
    with pytest.raises(UsageError, match="fim"):
        Tokenizer(tokenizer.to_json(), dialogue)


def test_damaged_and_missing_files(tmp_path):
    with pytest.raises(UsageError):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(IntegrityError):
        Tokenizer.load(tmp_path)
