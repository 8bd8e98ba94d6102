"""A mapped file whose blocks are compared before their first use."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from luna_kernel.base.block_sums import BLOCK, SUFFIX, BlockSums, write_sums
from luna_kernel.base.errors import IntegrityError


def mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * (3 * BLOCK // 256) + b"rest")
    write_sums(path)
    return path


def test_what_was_written_is_accepted(file: Path) -> None:
    sums = BlockSums(file, mapped(file))
    for begin, end in ((0, 1), (BLOCK - 1, BLOCK + 1), (3 * BLOCK, 3 * BLOCK + 4), (5, 5), (0, 3 * BLOCK + 4)):
        sums.check(begin, end)


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 7, 3 * BLOCK + 3])
def test_each_bit_counts_just_where_it_is_used(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 16
    file.write_bytes(data)
    sums = BlockSums(file, mapped(file))
    for number in range(4):
        begin, end = number * BLOCK, min((number + 1) * BLOCK, len(data))
        if begin <= place < end:
            for part in ((begin, begin + 1), (end - 1, end), (0, len(data))):
                with pytest.raises(IntegrityError, match=r"large\.bin"):
                    sums.check(*part)
        else:
            sums.check(begin, end)


@pytest.mark.parametrize("change", [lambda table: table[:-1], lambda table: table + table[:32], lambda _: b""])
def test_a_table_of_another_file_is_refused(file: Path, change) -> None:
    table = file.with_name(file.name + SUFFIX)
    table.write_bytes(change(table.read_bytes()))
    with pytest.raises(IntegrityError):
        BlockSums(file, mapped(file))
