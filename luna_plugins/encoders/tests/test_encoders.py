"""The encoders against slow references, and in a knowledge base."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_encoders.config import ModelConfig, SentenceConfig
from luna_plugin_encoders.model import ModelEncoder
from luna_plugin_encoders.pooling import WAYS, batches, padded, pool
from luna_plugin_encoders.sentence_transformers import SentenceEncoder

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.model.checkpoint import open_model
from luna_kernel.plugins import load_plugins

from .conftest import WORDS, make_folder

TEXTS = ["o gato no sol", "a casa de pedra", "", "livro", "a lua em o rio de flor " * 6, "[SEP] o gato [CLS]"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from(WAYS), st.integers(0, 1000))
def test_pooling_is_that_of_each_row_alone(lengths: list[int], way: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(length, 4, generator=generator) for length in lengths]
    states = torch.full((len(rows), max(lengths), 4), 99.0)
    for place, row in enumerate(rows):
        states[place, : len(row)] = row
    there = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    reference = {
        "cls": lambda row: row[0],
        "max": lambda row: torch.stack([max(row[:, column]) for column in range(4)]),
        "mean": lambda row: sum(row) / len(row),
        "mean_sqrt_len": lambda row: sum(row) / len(row) ** 0.5,
        "lasttoken": lambda row: row[-1],
    }[way]
    expected = torch.stack([reference(row) for row in rows])
    torch.testing.assert_close(pool(states, there, way), expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_batches_hold_each_text_once_and_no_more_than_fits(lengths: list[int], tokens: int) -> None:
    groups = list(batches([[0] * length for length in lengths], tokens))
    assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[place] for place in group) <= tokens


def test_padding_is_on_the_right() -> None:
    ids, there = padded([[5], [6, 7]], 1)
    assert ids.tolist() == [[5, 1], [6, 7]]
    assert there.tolist() == [[True, False], [True, True]]


# --- a Luna model ----------------------------------------------------------------------------------------------------


def test_a_models_states_are_averaged_and_centred(luna_model: Path) -> None:
    encoder = ModelEncoder(ModelConfig(model=str(luna_model), batch_tokens=20))
    opened = open_model(luna_model)
    expected = []
    for text in TEXTS:
        ids = opened.tokenizer.encode(text)[:64]
        if not ids:
            expected.append(torch.zeros(encoder.dimension))
            continue
        with torch.no_grad():
            expected.append(torch.nn.functional.normalize(opened.model.hidden(torch.tensor([ids]))[0].mean(0), dim=0))
    raw = torch.stack(expected).numpy()
    np.testing.assert_allclose(encoder.encode(TEXTS), raw, atol=1e-5)
    encoder.fit(TEXTS)
    centred = np.where(raw.any(1, keepdims=True), raw - raw.mean(0), 0)
    lengths = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(encoder.encode(TEXTS), centred / lengths, atol=1e-4)


def test_it_is_opened_again_and_refuses_other_weights(luna_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(luna_model, copy)
    config = ModelConfig(model=str(copy))
    encoder = ModelEncoder(config)
    encoder.fit(TEXTS)
    (tmp_path / "index").mkdir()
    encoder.save(tmp_path / "index")
    np.testing.assert_array_equal(ModelEncoder.load(config, tmp_path / "index").encode(TEXTS), encoder.encode(TEXTS))
    moved = ModelConfig(model=str(luna_model))
    ModelEncoder.load(moved, tmp_path / "index")  # the same weights elsewhere
    noted = json.loads((tmp_path / "index" / "source.json").read_text())
    (tmp_path / "index" / "source.json").write_text(json.dumps({**noted, "sha256": "0" * 64}))
    with pytest.raises(IntegrityError, match="other weights"):
        ModelEncoder.load(config, tmp_path / "index")


def test_a_model_that_is_not_there_is_said() -> None:
    with pytest.raises(UsageError, match="nada"):
        ModelEncoder(ModelConfig(model="nada"))


# --- sentence-transformers -------------------------------------------------------------------------------------------

MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("pooling", "way"),
    [(MEAN, "mean"), ({"pooling_mode_cls_token": True}, "cls"), ({"pooling_mode": "max"}, "max"),
     ({"pooling_mode_lasttoken": True}, "lasttoken")],
)  # fmt: skip
def test_a_folder_is_read_as_the_library_reads_it(tmp_path: Path, pooling: dict, way: str, dense: bool) -> None:
    """Text by text with transformers' own classes: twelve tokens at most, pooled, through the dense layer."""
    from safetensors.torch import load_file
    from transformers import AutoModel

    folder = make_folder(tmp_path / "bert", pooling, dense=dense)
    encoder = SentenceEncoder(SentenceConfig(folder=str(folder), batch_tokens=16))
    model = AutoModel.from_pretrained(folder).eval()
    numbers = {word: 4 + place for place, word in enumerate(WORDS)}
    for text, found in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        words = text.replace("[", " [ ").replace("]", " ] ").split()
        if not words:
            assert not found.any()
            continue
        ids = [2, *[numbers.get(word, 1) for word in words][:10], 3]
        with torch.no_grad():
            states = model(torch.tensor([ids])).last_hidden_state[0]
        vector = {"mean": states.mean(0), "cls": states[0], "max": states.amax(0), "lasttoken": states[-1]}[way]
        if dense:
            weights = load_file(folder / "2_Dense" / "model.safetensors")
            vector = torch.tanh(weights["linear.weight"] @ vector + weights["linear.bias"])
        np.testing.assert_allclose(found, torch.nn.functional.normalize(vector, dim=0).numpy(), atol=1e-5)


def test_questions_and_passages_have_their_prefixes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "bert", MEAN)
    plain = SentenceEncoder(SentenceConfig(folder=str(folder)))
    other = SentenceEncoder(SentenceConfig(folder=str(folder), query_prefix="a lua ", passage_prefix="o sol "))
    np.testing.assert_allclose(other.encode(["gato"], query=True), plain.encode(["a lua gato"]), atol=1e-6)
    np.testing.assert_allclose(other.encode(["gato"]), plain.encode(["o sol gato"]), atol=1e-6)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"modules\.json"):
        SentenceEncoder(SentenceConfig(folder=str(tmp_path)))
    folder = make_folder(tmp_path / "bert", {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True})
    with pytest.raises(UsageError, match="mean, max"):
        SentenceEncoder(SentenceConfig(folder=str(folder)))
    (folder / "modules.json").write_text(json.dumps([{"type": "x.CNN", "path": ""}]))
    with pytest.raises(UsageError, match="CNN"):
        SentenceEncoder(SentenceConfig(folder=str(folder)))
    (folder / "modules.json").write_text("{")
    with pytest.raises(UsageError, match=r"modules\.json"):
        SentenceEncoder(SentenceConfig(folder=str(folder)))
    (folder / "modules.json").write_text(json.dumps([{"type": "x.Transformer", "path": ""}]))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        SentenceEncoder(SentenceConfig(folder=str(folder)))


def test_other_weights_in_the_folder_make_the_index_anew(tmp_path: Path) -> None:
    pytest.importorskip("luna_plugin_faiss")
    rag = pytest.importorskip("luna_plugin_rag.knowledge_base")
    folder = make_folder(tmp_path / "bert", MEAN)
    (tmp_path / "docs").mkdir()
    for place, text in enumerate(("o gato no sol", "a casa de pedra", "livro em a mesa")):
        (tmp_path / "docs" / f"{place}.txt").write_text(text)
    node = {"name": "faiss", "min_score": -1.0, "encoder": {"name": "sentence_transformers", "folder": str(folder)}}
    config = rag.KnowledgeConfig(retrievers=(node,))
    registry = load_plugins("rag,faiss,encoders").registry
    said: list[str] = []
    with rag.KnowledgeBase(tmp_path / "kb", registry, config, say=said.append) as knowledge:
        knowledge.sync([tmp_path / "docs"])
        before = knowledge.ranking("faiss", "o gato no sol", 3)
    assert len(before) == 3
    assert not said
    shutil.rmtree(folder)
    make_folder(folder, MEAN, seed=5)
    with rag.KnowledgeBase(tmp_path / "kb", registry, config, say=said.append) as knowledge:
        with pytest.raises(UsageError, match="other weights") as caught:
            knowledge.search("o gato no sol")
        assert len(set(re.findall(r"[0-9a-f]{12}", caught.value.text))) == 2, "what it was made with, and what is there"
        assert [item.state for item in knowledge.conditions()] == ["other"]
        assert not said
        knowledge.sync([tmp_path / "docs"])
        assert len(knowledge.ranking("faiss", "o gato no sol", 3)) == 3
    assert "other weights" in "".join(said)
