"""Dense search: ids mapped, nothing invented, NaN refused, damaged files never read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_faiss import encoder
from luna_plugin_faiss.config import FaissConfig, LsaConfig
from luna_plugin_faiss.encoder import LsaEncoder, SparseRows
from luna_plugin_faiss.retriever import FaissRetriever

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.registry import Registry

TEXTS = [
    "O sino da capela, fundido em bronze, pesa 180 quilos.",
    "A capela foi erguida com pedras tiradas do rio.",
    "O bolo de fubá leva quatro ovos e duas xícaras de fubá.",
    "Bata os ovos, o açúcar e o fubá; asse o bolo em forno quente.",
    "A estrada de ferro trouxe o trem e os passageiros.",
    "O trem parava na estação e os passageiros desciam.",
]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_plugins("faiss").registry


def make(registry: Registry, texts: list[str] = TEXTS, **config: Any) -> FaissRetriever:
    retriever = FaissRetriever(FaissConfig(**config), registry)
    retriever.add([10 + i for i in range(len(texts))], texts)
    return retriever


def ids(retriever: FaissRetriever, query: str, k: int = 10) -> list[int]:
    return [hit.chunk_id for hit in retriever.search(query, k)]


def test_finds_by_matter(registry: Registry) -> None:
    retriever = make(registry)
    assert ids(retriever, "Quanto pesa o sino?")[0] == 10
    assert set(ids(retriever, "receita de bolo com ovos", 2)) == {12, 13}
    assert set(ids(retriever, "estação do trem", 2)) == {14, 15}
    scores = [hit.score for hit in retriever.search("trem", 10)]
    assert scores == sorted(scores, reverse=True)
    assert all(0.05 <= score <= 1.0001 for score in scores)


def test_empty_one_and_two(registry: Registry) -> None:
    assert ids(FaissRetriever(None, registry), "sino") == []
    assert ids(make(registry, []), "sino") == []
    assert ids(make(registry, ["o sino da capela"]), "sino") == [10]
    assert ids(make(registry, ["o sino"]), "helicóptero") == []
    assert ids(make(registry, ["", "o sino"]), "sino", 5) == [11]
    assert ids(make(registry, [""]), "sino") == []
    assert ids(make(registry), "") == []


def test_never_more_than_there_is(registry: Registry) -> None:
    found = ids(make(registry), "capela", 1000)
    assert set(found) <= {10 + i for i in range(len(TEXTS))}
    assert len(found) == len(set(found))


def test_add_and_remove(registry: Registry) -> None:
    retriever = make(registry)
    retriever.add([99], ["O sino novo da capela toca ao meio-dia."])
    assert 99 in ids(retriever, "sino da capela", 2)
    retriever.remove([99, 10, 12345])
    assert not {99, 10} & set(ids(retriever, "sino da capela", 10))
    assert retriever.ids() == {11, 12, 13, 14, 15}
    for bad in ([11], [-1], [7, 7]):
        with pytest.raises(ValueError):
            retriever.add(bad, ["x"] * len(bad))
    retriever.remove(sorted(retriever.ids()))
    assert ids(retriever, "capela") == []
    retriever.add([1], ["de volta: a capela"])
    assert ids(retriever, "capela") == [1]


def test_much_that_is_new_asks_for_a_rebuild(registry: Registry) -> None:
    retriever = make(registry, refit_growth=0.5)
    retriever.add([1, 2, 3], ["um", "dois", "três"])
    assert not retriever.wants_rebuild
    retriever.add([4], ["quatro"])
    assert retriever.wants_rebuild


def test_nan_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = make(registry)
    encoder = retriever._encoder.encoder
    vectors = encoder.encode(["x"])
    monkeypatch.setattr(encoder, "encode", lambda texts, query=False: np.full_like(vectors, np.nan))
    with pytest.raises(ValueError, match="not finite"):
        retriever.add([1], ["x"])
    with pytest.raises(ValueError, match="not finite"):
        retriever.search("x", 1)
    assert 1 not in retriever.ids()


def test_save_and_load(registry: Registry, tmp_path: Path) -> None:
    retriever = make(registry)
    retriever.remove([11])
    retriever.save(tmp_path)
    loaded = FaissRetriever.load(None, tmp_path, registry)
    assert loaded.ids() == retriever.ids()
    for query in ("sino", "ovos", "trem"):
        assert loaded.search(query, 5) == retriever.search(query, 5)
    loaded.add([77], ["helicóptero da capela"])
    assert 77 in ids(loaded, "capela")
    (tmp_path / "empty").mkdir()
    FaissRetriever(None, registry).save(tmp_path / "empty")
    assert len(FaissRetriever.load(None, tmp_path / "empty", registry)) == 0


@pytest.mark.parametrize("name", ["vectors.faiss", "encoder/lsa.safetensors"])
def test_a_flipped_bit_is_never_read(registry: Registry, tmp_path: Path, name: str) -> None:
    make(registry).save(tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    for place in range(0, len(data), max(1, len(data) // 40)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError):
            FaissRetriever.load(None, tmp_path, registry)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError):
        FaissRetriever.load(None, tmp_path, registry)


def test_an_unknown_encoder_is_named(registry: Registry) -> None:
    with pytest.raises(UsageError, match="lsa"):
        FaissRetriever(FaissConfig(encoder="lsaa"), registry)
    with pytest.raises(UsageError, match="dimensao"):
        FaissRetriever(FaissConfig(encoder={"name": "lsa", "dimensao": 3}), registry)


# --- the encoder ---


def test_vectors_have_length_one_or_zero() -> None:
    encoder = LsaEncoder(LsaConfig(dimension=4))
    encoder.fit(TEXTS)
    vectors = encoder.encode([*TEXTS, "", "zzz", "de para com"])
    assert vectors.shape == (9, 4)
    assert vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.allclose(lengths[:6], 1, atol=1e-4)
    assert np.allclose(lengths[6:], 0)


def test_the_decomposition_is_that_of_numpy() -> None:
    """Cosines of the texts in all dimensions are those of the exact singular vectors."""
    encoder = LsaEncoder(LsaConfig(dimension=3, seed=5))
    encoder.fit(TEXTS)
    rows = encoder._rows([encoder._count(text) for text in TEXTS])
    dense = rows.times(np.eye(rows.shape[1], dtype=np.float32))
    right = np.linalg.svd(dense, full_matrices=False)[2][:3]
    exact = dense @ right.T
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    mine = encoder.encode(TEXTS)
    assert np.allclose(mine @ mine.T, exact @ exact.T, atol=1e-3)
    assert np.allclose(rows.transposed_times(np.eye(6, dtype=np.float32)), dense.T, atol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.integers(1, 5))
def test_both_ways_to_multiply_a_sparse_matrix_give_the_product(seed: int, rows: int, width: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    whole = rng.standard_normal((rows, width)).astype(np.float32) * (rng.random((rows, width)) < 0.4)
    columns = [row.nonzero()[0] for row in whole]
    sparse = SparseRows(columns, [row[found] for row, found in zip(whole, columns, strict=True)], width)
    right = rng.standard_normal((width, size)).astype(np.float32)
    left = rng.standard_normal((rows, size)).astype(np.float32)
    for most in (0, encoder._FEW_PRODUCTS):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(encoder, "_FEW_PRODUCTS", most)
            np.testing.assert_allclose(sparse.times(right), whole @ right, atol=1e-5)
            np.testing.assert_allclose(sparse.transposed_times(left), whole.T @ left, atol=1e-5)


def test_a_question_waits_for_no_pytorch(registry: Registry, tmp_path: Path) -> None:
    make(registry).save(tmp_path)
    script = (
        "import sys; from pathlib import Path; from luna_kernel.plugins import load_plugins\n"
        "from luna_plugin_faiss.config import FaissConfig; from luna_plugin_faiss.retriever import FaissRetriever\n"
        "found = FaissRetriever.load(FaissConfig(), Path(sys.argv[1]), load_plugins('faiss').registry)\n"
        "print(found.search('Quanto pesa o sino?', 1)[0].chunk_id, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["10", "False"]


def test_same_seed_same_vectors(tmp_path: Path) -> None:
    one, two = LsaEncoder(), LsaEncoder()
    one.fit(TEXTS)
    two.fit(TEXTS)
    assert np.array_equal(one.encode(TEXTS), two.encode(TEXTS))
    one.save(tmp_path)
    assert np.array_equal(LsaEncoder.load(None, tmp_path).encode(TEXTS), one.encode(TEXTS))


def test_limits_of_the_config() -> None:
    encoder = LsaEncoder(LsaConfig(max_features=100, dimension=50))
    encoder.fit(TEXTS)
    assert len(encoder._vocabulary) == 100
    assert encoder.dimension <= len(TEXTS)


# --- kinds of index ---

WORDS = [f"{stem}{ending}" for stem in ("casa", "rio", "ponte", "livro", "festa", "trem") for ending in "abcdefghij"]


@pytest.fixture(scope="module")
def many() -> list[str]:
    rng = np.random.default_rng(7)
    return [" ".join(rng.choice(WORDS, 12)) for _ in range(1500)]


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize(("kind", "least"), [("hnsw", 0.9), ("ivf", 0.9), ("pq", 0.5)])
def test_recall_against_flat(
    registry: Registry, many: list[str], kind: str, least: float, metric: str, tmp_path: Path
) -> None:
    encoder = {"name": "lsa", "dimension": 64}
    flat = make(registry, many, encoder=encoder, metric=metric)
    other = make(registry, many, encoder=encoder, metric=metric, index=kind)
    queries = [" ".join(text.split()[:5]) for text in many[::30]]

    def recall(retriever: FaissRetriever) -> float:
        return float(np.mean([len({*ids(flat, q)} & {*ids(retriever, q)}) / len(ids(flat, q)) for q in queries]))

    assert recall(other) >= least
    gone = [10 + i for i in range(200)]
    flat.remove(gone)
    other.remove(gone)
    flat.add([9000], ["casaa casab casac riod"])
    other.add([9000], ["casaa casab casac riod"])
    assert recall(other) >= least
    assert other.ids() == flat.ids()
    other.save(tmp_path)
    loaded = FaissRetriever.load(other.config, tmp_path, registry)
    assert loaded.ids() == other.ids()
    assert [ids(loaded, query) for query in queries] == [ids(other, query) for query in queries]
    for query in queries:
        found = [hit.chunk_id for hit in loaded.search(query, 2000)]
        assert len(found) == len(set(found))
        assert set(found) <= flat.ids()
    assert 9000 in ids(loaded, "casaa casab casac riod", 5)


def test_few_vectors_are_kept_flat_until_there_are_more(registry: Registry, many: list[str]) -> None:
    retriever = make(registry, TEXTS, index="ivf", refit_growth=1000)
    assert ids(retriever, "Quanto pesa o sino?")[0] == 10
    assert not retriever.wants_rebuild
    retriever.add(range(100, 100 + len(many)), many)
    assert retriever.wants_rebuild


def test_much_that_is_gone_from_a_graph_asks_for_a_rebuild(registry: Registry, many: list[str]) -> None:
    retriever = make(registry, many[:100], index="hnsw")
    retriever.remove(range(10, 25))
    assert not retriever.wants_rebuild
    with pytest.raises(ValueError, match="not new"):
        retriever.add([12], ["x"])
    retriever.remove(range(25, 40))
    assert retriever.wants_rebuild


def test_inner_product_and_distance_score_as_they_say(registry: Registry) -> None:
    unit = {hit.chunk_id: hit.score for hit in make(registry, metric="ip").search("trem", 10)}
    away = {hit.chunk_id: hit.score for hit in make(registry, metric="l2").search("trem", 10)}
    for chunk_id, score in unit.items():  # the vectors of `lsa` have length 1
        assert away[chunk_id] == pytest.approx(2 * score - 2, abs=1e-4)
