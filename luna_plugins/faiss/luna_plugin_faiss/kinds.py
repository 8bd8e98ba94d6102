"""The kinds of FAISS index, and what each can do.

    kind   removal    trained   memory of a vector of d numbers
    flat   yes        no        4 d bytes
    hnsw   no         no        4 d bytes and about 8 per link (Malkov and Yashunin, 2018, arXiv 1603.09320)
    ivf    no         yes       4 d bytes (Sivic and Zisserman, "Video Google", 2003)
    pq     yes        yes       a code of a few bytes (Jegou, Douze and Schmid, "Product quantization", 2011)

What is trained learns from the vectors that come first. A kind that needs more of them than there are is a flat index
until it is built anew: few vectors are compared at once.
"""

from __future__ import annotations

import math
from typing import Any

from .config import FaissConfig

LEAST = {"flat": 0, "hnsw": 0, "ivf": 1000, "pq": 1000}
"""Vectors below which a kind is not worth its training, and a flat index is made."""
_PQ_BITS = 8


def make_index(config: FaissConfig, dimension: int, vectors: Any) -> Any:
    """An empty index that keeps ids, trained on `vectors` (N, dimension) where its kind is."""
    import faiss

    metric = faiss.METRIC_L2 if config.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    kind = config.index if len(vectors) >= LEAST[config.index] else "flat"
    if kind == "hnsw":
        inner = faiss.IndexHNSWFlat(dimension, config.neighbours, metric)
        inner.hnsw.efConstruction = max(80, 2 * config.neighbours)
    elif kind == "ivf":
        count = min(config.lists or round(4 * math.sqrt(len(vectors))), len(vectors) // 8)
        inner = faiss.IndexIVFFlat(faiss.IndexFlat(dimension, metric), dimension, max(count, 1), metric)
        inner.cp.min_points_per_centroid = 1
        inner.train(vectors)
    elif kind == "pq":
        parts = next(size for size in range(min(config.code_bytes, dimension), 0, -1) if dimension % size == 0)
        inner = faiss.IndexPQ(dimension, parts, _PQ_BITS, metric)
        inner.pq.cp.min_points_per_centroid = 1
        inner.train(vectors)
    else:
        inner = faiss.IndexFlat(dimension, metric)
    return faiss.IndexIDMap(inner)


def set_effort(index: Any, config: FaissConfig, k: int) -> None:
    """How hard the next search for `k` vectors tries."""
    import faiss

    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = max(config.effort, 2 * k)
    elif isinstance(inner, faiss.IndexIVF):
        inner.nprobe = max(1, min(inner.nlist, math.ceil(inner.nlist * min(config.effort, 100) / 100)))


def removes(index: Any) -> bool:
    """Whether vectors can be taken out of it; of the others, those that are gone are left out of what it finds."""
    import faiss

    # FAISS numbers what is left of a flat or a coded index anew, as `IndexIDMap` expects; lists keep their old numbers.
    return not isinstance(faiss.downcast_index(index.index), faiss.IndexHNSW | faiss.IndexIVF)
