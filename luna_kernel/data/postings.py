"""An inverted index in numpy: which items hold a term, and how often. What lexical retrievers are made of.

It holds counts only; what they are worth (BM25, TF-IDF) its user computes. Items come and go at any time: new ones
form segments that are merged as they pile up, so that adding costs in proportion to what is added; removed ones are
marked, skipped, and dropped when segments merge. What a term's rarity is follows from the living items alone, so an
index that grew and shrank gives the very figures of one built at once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue

from .segments import Segment, living_sizes, make_segment, merged
from .top_rows import Column, Floats, Ints, TopRows

_PATIENCE = 0.5
"""Share of all postings that is weighed term by term after a change before all are weighed at once: by then what one
by one has cost is about half of that."""
_FILE = "postings.safetensors"
_t = catalogue("luna_kernel.base")


class Vocabulary:
    """Terms and their numbers, in the order in which they came."""

    def __init__(self, terms: Iterable[str] = ()) -> None:
        self.terms = list(terms)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each term; made when first asked for, for an index may be opened without a search."""
        return {term: number for number, term in enumerate(self.terms)}

    def add(self, term: str) -> int:
        """The term's number, a new one if it is unknown."""
        number = self.numbers.get(term)
        if number is None:
            number = self.numbers[term] = len(self.terms)
            self.terms.append(term)
        return number

    def __len__(self) -> int:
        return len(self.terms)


class Postings:
    """The index. Rows are positions in `ids`; `version` grows with every change, for what users keep computed."""

    def __init__(self) -> None:
        self.ids: Ints = np.zeros(0, np.int64)
        self.lengths: Ints = np.zeros(0, np.int32)
        """Number of terms in each row, with repetitions."""
        self.alive: Ints = np.zeros(0, np.bool_)
        self.segments: list[Segment] = []
        self.version = 0
        self._top = TopRows(0)

    @functools.cached_property
    def _rows(self) -> dict[int, int]:
        """The row of each living id; made when first asked for."""
        living = np.flatnonzero(self.alive)
        return dict(zip(self.ids[living].tolist(), living.tolist(), strict=True))

    def __len__(self) -> int:
        return int(np.count_nonzero(self.alive))

    def live_ids(self) -> set[int]:
        """Ids of the living items."""
        return set(self.ids[self.alive].tolist())

    def add(self, ids: Sequence[int], items: Sequence[Ints]) -> None:
        """Add items, each an array of the numbers of its terms (with repetitions, in any order).

        Raises:
            ValueError: an id is negative, there already, or given twice; nothing was added.
        """
        fresh: set[int] = set()
        known = self._rows
        for item_id in ids:
            if item_id < 0 or item_id in known or item_id in fresh:
                raise ValueError(f"id {item_id} is negative or not new")
            fresh.add(item_id)
        if len(ids) != len(items):
            raise ValueError(f"{len(ids)} ids for {len(items)} items")
        if not ids:
            return
        first = len(self.ids)
        terms, counts, sizes = [], [], []
        for item in items:
            unique, times = np.unique(item, return_counts=True)
            terms.append(unique.astype(np.int32))
            counts.append(np.minimum(times, 65535).astype(np.uint16 if len(times) and times.max() > 255 else np.uint8))
            sizes.append(len(unique))
        rows = np.repeat(np.arange(first, first + len(ids), dtype=np.int32), sizes)
        self.segments.append(make_segment(np.concatenate(terms), rows, np.concatenate(counts)))
        self.ids = np.append(self.ids, np.asarray(ids, np.int64))
        self.lengths = np.append(self.lengths, np.asarray([len(item) for item in items], np.int32))
        self.alive = np.append(self.alive, np.ones(len(ids), np.bool_))
        known.update(zip(ids, range(first, first + len(ids)), strict=True))
        self.version += 1
        while len(self.segments) > 1 and len(self.segments[-1].rows) * 4 > len(self.segments[-2].rows):
            self.segments[-2:] = [merged(self.segments[-2:], self.alive)]

    def remove(self, ids: Iterable[int]) -> None:
        """Remove items; unknown ids are ignored."""
        rows = [row for row in (self._rows.pop(item_id, None) for item_id in ids) if row is not None]
        if not rows:
            return
        self.alive[rows] = False
        self.version += 1
        if len(self._rows) * 2 < len(self.ids):
            self.compact()

    def compact(self) -> None:
        """One segment, without what was removed."""
        if len(self.segments) <= 1 and self.alive.all():
            return
        one = merged(self.segments, self.alive)
        if not self.alive.all():
            moved = np.cumsum(self.alive, dtype=np.int32) - np.int32(1)
            one.rows = moved[one.rows]
        keep = np.flatnonzero(self.alive)
        self.segments = [one]
        self.ids, self.lengths, self.alive = self.ids[keep], self.lengths[keep], self.alive[keep]
        self.__dict__.pop("_rows", None)
        self.version += 1

    def find(self, term: int) -> tuple[Ints, Ints]:
        """(rows, counts) of the living items that hold `term`, rows ascending."""
        rows, counts = [], []
        for segment in self.segments:
            place = segment.find(term)
            if place.stop > place.start:
                rows.append(segment.rows[place])
                counts.append(segment.counts[place])
        if not rows:
            return np.zeros(0, np.int32), np.zeros(0, np.uint16)
        found, times = (rows[0], counts[0]) if len(rows) == 1 else (np.concatenate(rows), np.concatenate(counts))
        if not self.alive.all():
            living = self.alive[found]
            return found[living], times[living]
        return found, times

    def document_frequencies(self, size: int) -> Ints:
        """int64 (size,): in how many living items each term is."""
        total = np.zeros(size, np.int64)
        alive = None if self.alive.all() else self.alive
        for segment in self.segments:
            total[segment.terms] += living_sizes(segment, alive)
        return total

    def squares(self, worth: Callable[[Ints, Ints], Floats]) -> Floats:
        """float64 (rows,): the sum of the squares of what each row's postings are worth.

        Args:
            worth: from counts and terms of postings, both (P,), to float32 (P,).
        """
        total = np.zeros(len(self.ids), np.float64)
        for segment in self.segments:
            for terms, part in segment.blocks():
                worths = worth(segment.counts[part], segment.terms_of(terms)).astype(np.float64)
                total += np.bincount(segment.rows[part], worths * worths, minlength=len(total))
        return total

    def best(self, columns: Sequence[Column], k: int) -> list[tuple[int, float]]:
        """(id, score) of the `k` rows with the largest sums, best first, equal ones in the order of their ids.

        Args:
            columns: see `Weights.column`.
            k: how many at most.
        """
        if k <= 0:
            return []
        if self._top.size != len(self.ids):
            self._top = TopRows(len(self.ids))
        rows, scores = self._top.search(columns, k)
        ids = self.ids[rows]
        order = np.lexsort((ids, -scores))[:k]
        return list(zip(ids[order].tolist(), scores[order].tolist(), strict=True))


class Weights:
    """What each posting is worth, by a formula of its user, kept as long as the index stays as it is.

    Weighing all postings costs about as much as some dozens of searches: an index that changes between searches weighs
    only the terms that are asked for.

    Args:
        postings: the index.
        formula: from rows, counts and terms of postings, all (P,), to positive float32 (P,); each worth may depend
            on its own row, count and term, and on the state of the index only.
    """

    def __init__(self, postings: Postings, formula: Callable[[Ints, Ints, Ints], Floats]) -> None:
        self._postings = postings
        self._formula = formula
        self._version = -1
        self._asked = 0
        self._values: list[Floats] = []
        self._largest: list[Floats] = []

    def column(self, term: int, weight: Callable[[int], float]) -> Column | None:
        """The living rows that hold `term` with their worth; None if there are none.

        Args:
            term: its number.
            weight: from the number of living rows that hold the term to what their worth is multiplied by.
        """
        postings = self._postings
        if self._version != postings.version:
            self._version, self._asked, self._values, self._largest = postings.version, 0, [], []
        if self._asked >= _PATIENCE * sum(len(segment.rows) for segment in postings.segments):
            return self._kept(term, weight)
        rows, counts = postings.find(term)
        if not len(rows):
            return None
        self._asked += len(rows)
        values = self._formula(rows, counts, np.full(len(rows), term, np.int32))
        return Column(rows, values, weight(len(rows)), float(values.max()))

    def _kept(self, term: int, weight: Callable[[int], float]) -> Column | None:
        if not self._values:
            self._weigh_all()
        rows, values, largest = [], [], 0.0
        for segment, worth, most in zip(self._postings.segments, self._values, self._largest, strict=True):
            place = segment.place(term)
            if place >= 0:
                begin, end = segment.starts[place], segment.starts[place + 1]
                rows.append(segment.rows[begin:end])
                values.append(worth[begin:end])
                largest = max(largest, float(most[place]))
        if not largest:
            return None
        found, worths = (rows[0], values[0]) if len(rows) == 1 else (np.concatenate(rows), np.concatenate(values))
        if len(self._postings) != len(self._postings.ids):
            living = worths.nonzero()[0]
            if len(living) < len(found):
                found, worths = found[living], worths[living]
        return Column(found, worths, weight(len(found)), largest)

    def _weigh_all(self) -> None:
        """Worth of every posting, 0 where the row was removed, and the largest of each term, segment by segment."""
        alive = self._postings.alive
        for segment in self._postings.segments:
            values = np.empty(len(segment.rows), np.float32)
            for terms, part in segment.blocks():
                rows = segment.rows[part]
                values[part] = self._formula(rows, segment.counts[part], segment.terms_of(terms)) * alive[rows]
            self._values.append(values)
            self._largest.append(np.maximum.reduceat(values, segment.starts[:-1]) if len(values) else values)


def save_postings(folder: Path, postings: Postings, vocabulary: Vocabulary) -> None:
    """Write index and vocabulary into `folder` as one safetensors file; compacts the index first.

    Terms that no living item has are left out: what was removed leaves none of its words behind.
    """
    postings.compact()
    segment = postings.segments[0] if postings.segments else make_segment(*(np.zeros(0, np.int32),) * 3)
    kept, total = [vocabulary.terms[number] for number in segment.terms], len(segment.counts)
    _write(
        folder / _FILE,
        {
            "ids": postings.ids,
            "starts": segment.starts,
            "vocabulary_size": np.asarray([len(kept)], np.int64),
            "lengths": postings.lengths,
            "terms": np.arange(len(kept), dtype=np.int32),
            "rows": segment.rows.astype(np.int32, copy=False),
            "counts": segment.counts.astype(
                np.uint8 if not total or segment.counts.max() < 256 else np.uint16, copy=False
            ),
            "vocabulary": np.frombuffer("\n".join(kept).encode("utf-8"), np.uint8),
        },
    )


def load_postings(folder: Path) -> tuple[Postings, Vocabulary]:
    """Open what `save_postings` wrote; its large arrays are mapped, not read: only what a search touches is loaded.

    Raises:
        IntegrityError: the file is not one of ours, or its parts disagree.
    """
    try:
        arrays = _mapped(folder / _FILE)
        words = arrays["vocabulary"].tobytes().decode("utf-8")
        vocabulary = Vocabulary(words.split("\n") if words else [])
        postings = Postings()
        postings.ids, postings.lengths = arrays["ids"], arrays["lengths"]
        segment = Segment(arrays["terms"], arrays["starts"], arrays["rows"], arrays["counts"])
        size = int(arrays["vocabulary_size"][0])
    except (OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(folder, str(error)) from error
    rows, total = len(postings.ids), len(segment.rows)
    agree = (
        size == len(vocabulary)
        and len(postings.lengths) == rows
        and len(segment.starts) == len(segment.terms) + 1
        and len(segment.counts) == total == segment.starts[-1]
        and (not total or (segment.rows.min() >= 0 and segment.rows.max() < rows))
        and (not len(segment.terms) or (segment.terms[0] >= 0 and segment.terms[-1] < size))
        and bool(np.all(np.diff(segment.starts) > 0))
    )
    if not agree:
        raise _damaged(folder, "its parts disagree")
    postings.alive = np.ones(rows, np.bool_)
    postings.segments = [segment] if rows else []
    return postings, vocabulary


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


_TYPES = {"I64": np.int64, "I32": np.int32, "U16": np.uint16, "U8": np.uint8}


def _mapped(path: Path) -> dict[str, Ints]:
    """The arrays of a safetensors file as views of the mapped file, which the operating system reads as they are used.

    The safetensors library copies every tensor; for half a gigabyte of postings that alone takes a second. The format:
    eight bytes with the length of the header, the header as JSON, then the data.

    Raises:
        ValueError, KeyError, TypeError, OSError: it is not such a file.
    """
    content = np.memmap(path, np.uint8, "r")
    length = int(content[:8].view("<u8")[0])
    if not 2 <= length <= min(len(content) - 8, 1 << 20):
        raise ValueError("bad header")
    header = json.loads(content[8 : 8 + length].tobytes())
    data = content[8 + length :]
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        kind, (count,) = np.dtype(_TYPES[entry["dtype"]]), entry["shape"]
        if not (0 <= begin <= end <= len(data) and end - begin == count * kind.itemsize):
            raise ValueError(f"{name} lies outside the file")
        arrays[name] = np.asarray(data[begin:end]).view(kind)
    return arrays


def _damaged(folder: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        _t("integrity.unreadable", folder=folder, name=_FILE, reason=reason), hint=_t("integrity.hint")
    )
