"""The order of samples, the token store and batches: everything once, whole, and a pure function of the position."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.data.batches import Batches
from luna_kernel.data.order import Order, Permutation
from luna_kernel.data.token_store import Sample, TokenStore


@given(st.integers(1, 3000), st.integers(0, 2**63))
@settings(max_examples=50, deadline=None)
def test_permutation_is_a_bijection(size, seed):
    permutation = Permutation(size, seed)
    assert sorted(permutation[i] for i in range(size)) == list(range(size))


def test_permutation_mixes():
    size = 10_000
    values = np.array([Permutation(size, 5)[i] for i in range(size)])
    assert abs(np.corrcoef(values, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.05
    assert (values == np.arange(size)).sum() < 10
    with pytest.raises(IndexError):
        Permutation(3, 0)[3]
    with pytest.raises(ValueError):
        Permutation(0, 0)


def test_order_is_a_function_of_seed_and_position():
    order, again = Order(100, 3), Order(100, 3)
    first = [order[p] for p in range(300)]
    assert [again[p] for p in reversed(range(300))][::-1] == first
    assert sorted(first[:100]) == sorted(first[100:200]) == list(range(100))
    assert first[:100] != first[100:200]
    assert [Order(100, 4)[p] for p in range(100)] != first[:100]
    assert [Order(5, 1, shuffle=False)[p] for p in range(7)] == [0, 1, 2, 3, 4, 0, 1]


def store_of(folder, lengths, *, masks=None, vocab_size=1000):
    """Sample i holds the ids 1, 2, 3, …, plus i·1000 where they fit."""
    samples = [Sample(list(range(1, n + 1)), None if masks is None else masks[i]) for i, n in enumerate(lengths)]
    return TokenStore.build(folder, samples, vocab_size=vocab_size, key="k")


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(1, 4), st.integers(2, 20), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_prediction_once_per_epoch(tmp_path_factory, lengths, rows, width, seed):
    folder = tmp_path_factory.mktemp("store") / "s"
    samples = [Sample([100 * i + j for j in range(n)]) for i, n in enumerate(lengths)]
    store = TokenStore.build(folder, samples, vocab_size=100_000)
    batches = Batches(store, rows, width, seed=seed)
    seen = []
    for batch in batches.one_pass():
        assert batch.tokens.shape == (rows, width)
        on = batch.weights > 0
        assert (batch.segment_ids[on] > 0).all()
        assert (batch.targets[~on] == 0).all()
        assert (batch.targets[on] == batch.tokens[on] + 1).all()
        seen += batch.tokens[on].tolist()
        for row in range(rows):
            segments = batch.segment_ids[row]
            for number in set(segments[segments > 0].tolist()):
                inside = batch.tokens[row][segments == number]
                assert (np.diff(inside) == 1).all()
                assert len(set((inside // 100).tolist())) == 1
                assert batch.positions[row][segments == number].tolist() == list(range(len(inside)))
    assert sorted(seen) == sorted(100 * i + j for i, n in enumerate(lengths) for j in range(n - 1))


def test_short_samples_stay_whole(tmp_path):
    batches = Batches(store_of(tmp_path / "s", [4, 4, 4, 9, 2]), 1, 8, shuffle=False)
    made = list(batches.one_pass())
    assert [b.segment_ids[0].tolist() for b in made] == [
        [1, 1, 1, 2, 2, 2, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1] * 8,
        [1, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_position_says_all(tmp_path):
    store = store_of(tmp_path / "s", [5, 30, 7, 3, 12, 9] * 5)
    whole = Batches(store, 3, 10, seed=1).from_position()
    steps = [next(whole) for _ in range(25)]
    for index in (0, 7, 24):
        again = Batches(store, 3, 10, seed=1).at(steps[index].start)
        assert (again.tokens == steps[index].tokens).all()
        assert (again.segment_ids == steps[index].segment_ids).all()
        assert again.end == steps[index].end
    assert [b.start for b in steps[1:]] == [b.end for b in steps[:-1]]


def test_masks_select_targets(tmp_path):
    store = store_of(tmp_path / "s", [5], masks=[[False, False, True, False, True]])
    batch = Batches(store, 1, 6, shuffle=False).at(0, limit=1)
    assert batch.weights[0].tolist() == [0, 1, 0, 1, 0, 0]
    assert batch.num_targets == 2
    assert batch.num_tokens == 4
    assert (store.num_targets, store.num_tokens) == (2, 5)


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=40), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_store_gives_back_ids_and_masks(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("store") / "s"
    kept = [mask for mask in masks if any(mask[1:])]
    samples = [Sample(list(range(len(mask))), mask) for mask in masks]
    if not kept:
        with pytest.raises(UsageError):
            TokenStore.build(folder, samples, vocab_size=70_000)
        return
    TokenStore.build(folder, samples, vocab_size=70_000)
    store = TokenStore.open(folder)
    assert store.num_samples == len(kept)
    assert store.manifest["dropped"] == len(masks) - len(kept)
    for index, mask in enumerate(kept):
        ids, bits = store.sample(index)
        assert ids.tolist() == list(range(len(mask)))
        assert bits.tolist() == mask


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.bin", "mask.bin", "store.json"])
def test_damage_is_found(tmp_path, name):
    folder = tmp_path / "s"
    store_of(folder, [5, 6], masks=[[True] * 5, [False] * 5 + [True]])
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises((IntegrityError, UsageError)):
        TokenStore.open(folder, key="k")


def test_store_of_other_data_is_refused(tmp_path):
    store_of(tmp_path / "s", [5])
    with pytest.raises(UsageError):
        TokenStore.open(tmp_path / "s", key="other")
    with pytest.raises(ValueError, match="out of range"):
        store_of(tmp_path / "t", [5], vocab_size=3)


def test_digests_find_equal_samples(tmp_path):
    one = store_of(tmp_path / "a", [5, 6, 7])
    two = store_of(tmp_path / "b", [6, 9])
    assert len(one.digests() & two.digests()) == 1
