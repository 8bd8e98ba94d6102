"""An inverted index on the disk: one safetensors file that is mapped, and the checksums of its blocks.

Opening reads the vocabulary and where each term's postings are. The postings themselves are read as searches ask for
them, and each block of the file is compared with its checksum before its first use.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luna_kernel.base import durable
from luna_kernel.base.block_sums import SUFFIX, BlockSums, write_sums
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue

from .postings import Postings, Vocabulary
from .segments import Segment, make_segment
from .top_rows import Ints

_FILE = "postings.safetensors"
_TYPES = {"I64": np.int64, "I32": np.int32, "U16": np.uint16, "U8": np.uint8}
_LAZY = ("rows", "counts")
"""The arrays that are compared as they are used; all others when the file is opened."""
_t = catalogue("luna_kernel.base")


def save_postings(folder: Path, postings: Postings, vocabulary: Vocabulary) -> None:
    """Write index and vocabulary into `folder`; compacts the index first.

    Terms that no living item has are left out: what was removed leaves none of its words behind.
    """
    postings.compact()
    segment = postings.segments[0] if postings.segments else make_segment(*(np.zeros(0, np.int32),) * 3)
    rows, counts = segment.whole()
    kept = [vocabulary.terms[number] for number in segment.terms]
    small = not len(counts) or counts.max() < 256
    _write(
        folder / _FILE,
        {
            "ids": postings.ids,
            "starts": segment.starts,
            "vocabulary_size": np.asarray([len(kept)], np.int64),
            "lengths": postings.lengths,
            "terms": np.arange(len(kept), dtype=np.int32),
            "rows": rows.astype(np.int32, copy=False),
            "counts": counts.astype(np.uint8 if small else np.uint16, copy=False),
            "vocabulary": np.frombuffer("\n".join(kept).encode("utf-8"), np.uint8),
        },
    )
    write_sums(folder / _FILE)


def _write(path: Path, arrays: dict[str, Ints]) -> None:
    """Write arrays as a safetensors file, one after the other; the library would first copy them into one piece.

    Args:
        path: the file.
        arrays: larger numbers first, so that each lies where its kind may.
    """
    names = {np.dtype(kind): name for name, kind in _TYPES.items()}
    header, end = {}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode("ascii")
    head += b" " * (-len(head) % 8)
    with durable.create_file(path, need=8 + len(head) + end) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)


def load_postings(folder: Path) -> tuple[Postings, Vocabulary]:
    """Open what `save_postings` wrote. The index keeps the file mapped; see the module.

    The rows and counts of a damaged block raise `IntegrityError` when they are asked for.

    Raises:
        IntegrityError: the file is not one of ours, its parts disagree, or what is read now is damaged.
    """
    try:
        mapped = _Mapped.open(folder / _FILE)
        words = mapped.array("vocabulary").tobytes().decode("utf-8")
        vocabulary = Vocabulary(words.split("\n") if words else [])
        postings = Postings()
        postings.ids, postings.lengths = mapped.array("ids"), mapped.array("lengths")
        terms, starts, rows, counts = (mapped.array(name) for name in ("terms", "starts", *_LAZY))
        size = int(mapped.array("vocabulary_size")[0])
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(folder, str(error)) from error
    held, total = len(postings.ids), len(rows)
    agree = (
        size == len(vocabulary)
        and len(postings.lengths) == held
        and len(starts) == len(terms) + 1
        and len(counts) == total == starts[-1]
        and (mapped.sums is not None or not total or (rows.min() >= 0 and rows.max() < held))
        and (not len(terms) or (terms[0] >= 0 and terms[-1] < size))
        and bool(np.all(np.diff(starts) > 0))
    )
    if not agree:
        raise _damaged(folder, "its parts disagree")
    postings.alive = np.ones(held, np.bool_)
    postings.segments = [Segment(terms, starts, rows, counts, mapped.checker())] if held else []
    return postings, vocabulary


@dataclass
class _Mapped:
    """A safetensors file whose arrays are views of the mapped file, which the system reads as they are used.

    The safetensors library copies every tensor; for half a gigabyte of postings that alone takes a second. The format:
    eight bytes with the length of the header, the header as JSON, then the data.
    """

    content: Ints
    entries: dict[str, tuple[int, int, np.dtype[np.generic]]]
    """Begin and end in the file, and the kind of number, of each array."""
    sums: BlockSums | None

    @classmethod
    def open(cls, path: Path) -> _Mapped:
        """Map a file and read its header.

        Raises:
            ValueError, KeyError, TypeError, OSError: it is not such a file.
            IntegrityError: the header is damaged.
        """
        content = np.memmap(path, np.uint8, "r")
        # One that an older Luna wrote has no table, and was compared as a whole before.
        has_sums = path.with_name(path.name + SUFFIX).is_file()
        sums = BlockSums(path, content.data) if has_sums else None
        if sums is not None:
            sums.check(0, 8)
        length = int(content[:8].view("<u8")[0])
        if not 2 <= length <= min(len(content) - 8, 1 << 20):
            raise ValueError("bad header")
        data = 8 + length
        if sums is not None:
            sums.check(0, data)
        header = json.loads(content[8:data].tobytes())
        entries = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            kind, (count,) = np.dtype(_TYPES[entry["dtype"]]), entry["shape"]
            if not (0 <= begin <= end <= len(content) - data and end - begin == count * kind.itemsize):
                raise ValueError(f"{name} lies outside the file")
            entries[name] = (data + begin, data + end, kind)
        return cls(content, entries, sums)

    def array(self, name: str) -> Ints:
        """An array, compared with its checksums unless it is one of those that are later."""
        begin, end, kind = self.entries[name]
        if self.sums is not None and name not in _LAZY:
            self.sums.check(begin, end)
        return np.asarray(self.content[begin:end]).view(kind)

    def checker(self) -> Callable[[slice], None] | None:
        """What compares the checksums of some postings."""
        return None if self.sums is None else functools.partial(self._check, self.sums)

    def _check(self, sums: BlockSums, postings: slice) -> None:
        if postings.start < postings.stop:
            for name in _LAZY:
                begin, _, kind = self.entries[name]
                sums.check(begin + kind.itemsize * postings.start, begin + kind.itemsize * postings.stop)


def _damaged(folder: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        _t("integrity.unreadable", folder=folder, name=_FILE, reason=reason), hint=_t("integrity.hint")
    )
