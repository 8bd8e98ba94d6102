"""Conditions from a line of JSON to the vectors of a packed batch: every token has those of its own sample."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.data.batches import Batches
from luna_kernel.data.conditions import ConditionSpace, read_conditions
from luna_kernel.data.readers import JsonlReader
from luna_kernel.data.token_store import CONDITIONS, Sample, TokenStore

VALUES = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "domain": st.sampled_from(["saude", "direito", "aço"]).map(lambda name: {name: 1.0}),
            "emotion": st.dictionaries(
                st.sampled_from(["alegria", "medo", "raiva"]), st.floats(-4, 4, width=32), min_size=1
            ),
            "unread": st.just({"x": 1.0}),
        },
    ),
)


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setenv("LUNA_LANG", "en")


def line(condition):
    return json.dumps({"pergunta": "Oi?", "resposta": "Olá.", "condition": condition}, ensure_ascii=False).encode()


def test_a_line_may_say_words_weights_and_numbers():
    condition = {"domain": "saude", "emotion": {"alegria": 0.8, "medo": 0}, "style": [0.5, -2]}
    (record,) = JsonlReader().read(line(condition), "a.jsonl").records
    assert record.condition == {
        "domain": {"saude": 1.0},
        "emotion": {"alegria": 0.8, "medo": 0.0},
        "style": {"0": 0.5, "1": -2.0},
    }
    result = JsonlReader().read(line(condition), "a.jsonl")
    assert type(result).from_json(json.loads(json.dumps(result.to_json()))) == result
    (plain,) = JsonlReader().read(b'{"text": "sem nada"}', "a.jsonl").records
    assert plain.condition is None
    assert read_conditions({}) is None


@pytest.mark.parametrize(
    "condition",
    ["saude", ["saude"], {"domain": 3}, {"domain": {}}, {"domain": ""}, {"domain": {"a": "muito"}}, {"domain": [True]},
     {"domain": {"a": 1e39}}, {"domain": "x" * 101}, {"": "saude"}, {"domain": "a\nb"}, {"domain": [0] * 5000}],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_what_is_no_condition_is_reported_with_its_line(condition):
    result = JsonlReader().read(b'{"text": "bom"}\n' + line(condition), "a.jsonl")
    assert len(result.records) == 1
    assert [fault.place for fault in result.bad] == ["a.jsonl:2"]


def test_names_keep_their_dimension_and_new_ones_follow():
    space = ConditionSpace({"domain": 4, "style": 3})
    first = space.with_names({"domain": ["saude", "direito"], "unread": ["x"]})
    assert first.names == {"domain": ("direito", "saude")}
    assert first == space.with_names({"domain": ["direito", "saude"]})
    second = first.with_names({"domain": ["arte", "saude"]})
    assert second.names["domain"] == ("direito", "saude", "arte")
    assert second.vector("domain", {"arte": 0.5, "direito": -1}) == [-1, 0, 0.5, 0]
    assert second.vector("domain", "saude") == [0, 1, 0, 0]
    with pytest.raises(UsageError, match="room for 4"):
        second.with_names({"domain": ["a", "b"]})
    numbers = second.with_names({"style": ["1"]})
    assert numbers.vector("style", [7, 8]) == [7, 8, 0]
    with pytest.raises(UsageError, match="plain numbers"):
        numbers.with_names({"style": ["calmo"]})


def test_what_the_model_does_not_know_is_an_error_with_the_nearest():
    space = ConditionSpace({"domain": 4}).with_names({"domain": ["saude", "direito"]})
    with pytest.raises(UsageError, match="'saude'"):
        space.vector("domain", "saúde")
    with pytest.raises(UsageError, match="Did you mean 'domain'"):
        space.vector("dominio", "saude")


@given(st.lists(st.tuples(st.integers(2, 9), VALUES), min_size=1, max_size=12), st.integers(1, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_each_token_of_a_packed_row_has_its_own_vector(tmp_path_factory, given_samples, rows, shuffle):
    folder = tmp_path_factory.mktemp("store") / "s"
    samples = [Sample([100 * i + j for j in range(n)], None, value) for i, (n, value) in enumerate(given_samples)]
    TokenStore.build(folder, samples, vocab_size=2000, key="k")
    store = TokenStore.open(folder, key="k")
    space = ConditionSpace({"domain": 5, "emotion": 3, "other": 2}).with_names(store.condition_names)
    batches = Batches(store, rows, 6, seed=1, shuffle=shuffle, space=space)
    plain = Batches(store, rows, 6, seed=1, shuffle=shuffle)
    expected = {name for _, value in given_samples for name in value or {}} & {"domain", "emotion"}
    for batch, same in zip(batches.one_pass(), plain.one_pass(), strict=True):
        assert (batch.tokens == same.tokens).all()
        assert batch.end == same.end
        assert same.conditions == {}
        assert set(batch.conditions) == expected
        for name, values in batch.conditions.items():
            assert values.dtype == np.float32
            for row, column in np.ndindex(batch.tokens.shape):
                value = None
                if batch.segment_ids[row, column]:
                    value = (given_samples[batch.tokens[row, column] // 100][1] or {}).get(name)
                want = [0.0] * space.widths[name] if value is None else space.vector(name, value)
                assert values[row, column].tolist() == want
            assert (batch.rows(0, 1).conditions[name] == values[:1]).all()


def test_a_store_without_conditions_is_as_it_was(tmp_path):
    TokenStore.build(tmp_path / "s", [Sample([1, 2, 3]), Sample([4, 5])], vocab_size=9)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["offsets.bin", "store.json", "tokens.bin"]
    assert "conditions" not in json.loads((tmp_path / "s" / "store.json").read_text())


def test_damaged_conditions_are_found(tmp_path):
    store = TokenStore.build(tmp_path / "s", [Sample([1, 2], None, {"domain": {"a": 2.0}})], vocab_size=9)
    assert CONDITIONS in store.manifest["files"]
    before = hashlib.sha256((tmp_path / "s" / CONDITIONS).read_bytes()).hexdigest()
    assert store.manifest["files"][CONDITIONS]["sha256"] == before
    data = bytearray((tmp_path / "s" / CONDITIONS).read_bytes())
    data[-1] ^= 1
    (tmp_path / "s" / CONDITIONS).write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match=r"conditions\.bin"):
        TokenStore.open(tmp_path / "s")
