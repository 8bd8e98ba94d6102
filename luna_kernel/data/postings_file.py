"""An inverted index and its vocabulary as one safetensors file, which is mapped when it is opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue

from .postings import Postings, Segment, Vocabulary, make_segment
from .top_rows import Ints

_FILE = "postings.safetensors"
_t = catalogue("luna_kernel.base")


def save_postings(folder: Path, postings: Postings, vocabulary: Vocabulary) -> None:
    """Write index and vocabulary into `folder` as one safetensors file; compacts the index first.

    Terms that no living item has are left out: what was removed leaves none of its words behind.
    """
    from safetensors.numpy import save

    postings.compact()
    segment = postings.segments[0] if postings.segments else make_segment(*(np.zeros(0, np.int32),) * 3)
    kept, total = [vocabulary.terms[number] for number in segment.terms], len(segment.counts)
    blob = np.frombuffer("\n".join(kept).encode("utf-8"), np.uint8)
    arrays = {
        "ids": postings.ids,
        "lengths": postings.lengths,
        "terms": np.arange(len(kept), dtype=np.int32),
        "starts": segment.starts,
        "rows": segment.rows.astype(np.int32),
        "counts": segment.counts.astype(np.uint8 if not total or segment.counts.max() < 256 else np.uint16),
        "vocabulary": blob,
        "vocabulary_size": np.asarray([len(kept)], np.int64),
    }
    durable.write_bytes(folder / _FILE, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


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
