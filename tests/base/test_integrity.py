from __future__ import annotations

import hashlib
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import IntegrityError, UsageError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    luck = random.Random(1)
    with durable.replace_folder(tmp_path / "model") as new:
        durable.write_bytes(new / "weights.bin", luck.randbytes(20_000))
        durable.write_json(new / "tokenizer" / "vocab.json", {"ç": 1})
        durable.write_json(new / "luna.json", {"files": integrity.seal(new)})
    return tmp_path / "model"


def manifest(model: Path) -> dict[str, Any]:
    return integrity.read_json(model / "luna.json")["files"]


def test_seal_names_every_file_with_size_and_hash(model: Path) -> None:
    files = manifest(model)
    assert list(files) == ["tokenizer/vocab.json", "weights.bin"]
    data = (model / "weights.bin").read_bytes()
    assert files["weights.bin"] == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": 20_000}
    assert list(integrity.seal(model, exclude=["luna.json", "weights.bin"])) == ["tokenizer/vocab.json"]
    integrity.check(model, files)
    (model / "link").symlink_to(model / "weights.bin")
    with pytest.raises(ValueError, match="link"):
        integrity.seal(model)


def test_a_large_file_is_hashed_in_blocks(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(3 * (1 << 20) + 17)
    (tmp_path / "large").write_bytes(data)
    assert integrity.hash_file(tmp_path / "large") == hashlib.sha256(data).hexdigest()


def test_500_random_bit_flips_and_truncations_are_all_detected(model: Path) -> None:
    luck = random.Random(3)
    files = manifest(model)
    names = [*files]
    originals = {name: (model / name).read_bytes() for name in names}
    detected = 0
    for trial in range(500):
        name = luck.choice(names)
        data = bytearray(originals[name])
        if trial % 5:
            place = luck.randrange(len(data) * 8)
            data[place // 8] ^= 1 << place % 8
        else:
            del data[luck.randrange(len(data)) :]
        (model / name).write_bytes(data)
        with pytest.raises(IntegrityError, match=name):
            integrity.check(model, files)
        detected += 1
        (model / name).write_bytes(originals[name])
    integrity.check(model, files)
    print(f"{detected} of 500 detected")
    # The negative control: without the hashes a flip is not seen.
    data = bytearray(originals["weights.bin"])
    data[77] ^= 1
    (model / "weights.bin").write_bytes(data)
    integrity.check(model, files, verify=False)


def test_missing_swapped_and_odd_files_are_named(model: Path) -> None:
    files = manifest(model)
    weights = model / "weights.bin"
    weights.rename(model / "aside")
    with pytest.raises(IntegrityError, match=r"weights\.bin is missing"):
        integrity.check(model, files, verify=False)
    os.mkfifo(weights)
    with pytest.raises(IntegrityError, match=r"weights\.bin .* is not a file"):
        integrity.check(model, files)
    weights.unlink()
    weights.write_bytes(b"short")
    with pytest.raises(IntegrityError, match=r"5 B, but 20\.0 kB"):
        integrity.check(model, files, verify=False)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside", "tokenizer/../../outside", "", ".", "a//b", "a/", "a\0b", "..\\outside", "link/x"],
)
def test_names_that_lead_outside_are_refused(model: Path, name: str) -> None:
    outside = model.parent / "outside"
    outside.mkdir()
    (outside / "x").write_text("")
    (model / "link").symlink_to(outside)
    entry = {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}
    with pytest.raises(IntegrityError, match="not a place inside"):
        integrity.check(model, {name: entry})


def test_links_inside_the_folder_are_followed_and_loops_are_not(model: Path) -> None:
    files = manifest(model)
    (model / "weights.bin").rename(model / "aside")
    (model / "weights.bin").symlink_to("aside")
    integrity.check(model, files)
    (model / "weights.bin").unlink()
    (model / "weights.bin").symlink_to("weights.bin")
    with pytest.raises(IntegrityError):
        integrity.check(model, files)


@pytest.mark.parametrize(
    "entry", [None, 3, "x", {}, {"bytes": 1}, {"bytes": True, "sha256": "0" * 64}, {"bytes": 1, "sha256": "Z" * 64}]
)
def test_entries_are_not_trusted(model: Path, entry: object) -> None:
    with pytest.raises(IntegrityError, match=r"weights\.bin"):
        integrity.check(model, {"weights.bin": entry})


class TestJson:
    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ('{"a": NaN}', "NaN"),
            ("[-Infinity]", "-Infinity"),
            ("[1e999]", "1e999"),
            ('{"a": {"b": 1, "c": 2, "b": 3}}', "'b' occurs twice"),
            ('["\\ud800"]', "half a character"),
            ('{"\\udfff": 1}', "half a character"),
            ("[" * 101 + "]" * 101, "more than 100 levels"),
            ("[" * 100_000, "more than 100 levels"),
            ('{"a":' * 5000, "more than 100 levels"),
            ("[1,\n 2,\n  x]", "line 3, column 3"),
            ("", "line 1"),
            ("9" * 5000, "too large"),
            ('["\x01"]', "line 1"),
        ],
    )
    def test_what_is_not_strict_json_is_refused_with_its_place(self, tmp_path: Path, text: str, why: str) -> None:
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(IntegrityError) as refused:
            integrity.read_json(tmp_path / "a.json")
        assert why in refused.value.text
        assert str(tmp_path / "a.json") in refused.value.text

    def test_bounds(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text("[" * 100 + "]" * 100)
        integrity.read_json(tmp_path / "a.json")
        (tmp_path / "a.json").write_text('["' + "[" * 200 + '", "\\"{{", ' + "[1]," * 200 + "0]")
        assert integrity.read_json(tmp_path / "a.json")[1] == '"{{'
        with pytest.raises(IntegrityError, match="larger than 100 B"):
            integrity.read_json(tmp_path / "a.json", max_bytes=100)
        (tmp_path / "a.json").write_bytes(b'{"a": "\xe7"}')
        with pytest.raises(IntegrityError, match="UTF-8 at byte 7"):
            integrity.read_json(tmp_path / "a.json")
        with pytest.raises(UsageError, match=r"no file .*absent\.json"):
            integrity.read_json(tmp_path / "absent.json")
        with pytest.raises(IntegrityError):
            integrity.read_json(tmp_path)

    def test_hostile_files_cost_no_time(self, tmp_path: Path) -> None:
        """Each of these is quadratic for a careless reader."""
        for text in ("[" * 101 + '"' + '\\"' * 1_000_000 + "\\", "[" + ",".join('{"a":1}' for _ in range(200_000))):
            (tmp_path / "a.json").write_text(text)
            with pytest.raises(IntegrityError):
                integrity.read_json(tmp_path / "a.json")
        pairs = ",".join(f'"{number}":0' for number in range(100_000))
        (tmp_path / "a.json").write_text("{" + pairs + ',"99999":1}')
        with pytest.raises(IntegrityError, match="'99999' occurs twice"):
            integrity.read_json(tmp_path / "a.json")

    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    )

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(value=values)
    def test_what_luna_writes_it_reads(self, tmp_path: Path, value: Any) -> None:
        durable.write_json(tmp_path / "a.json", value)
        assert integrity.read_json(tmp_path / "a.json") == value

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.binary(max_size=60) | st.text(alphabet='{}[]":,\\ueE+-.019dD8 \n', max_size=40).map(str.encode))
    def test_any_bytes_give_a_value_or_luna_s_error(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "a.json").write_bytes(data)
        try:
            value = integrity.read_json(tmp_path / "a.json")
        except IntegrityError:
            return
        assert value == json.loads(data.decode("utf-8-sig"))
        assert not isinstance(value, float) or math.isfinite(value)
