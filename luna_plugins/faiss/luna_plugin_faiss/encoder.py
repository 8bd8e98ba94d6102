"""Latent semantic analysis: vectors learned from the documents themselves, without any download.

TF-IDF over word stems and character n-grams, then a truncated singular value decomposition (Deerwester et al.,
"Indexing by latent semantic analysis", 1990) by random projection with power iterations (Halko, Martinsson and Tropp,
"Finding structure with randomness", 2011, algorithms 4.4 and 5.1). A text's vector is its weighted terms times the
right singular vectors, so new texts and questions are encoded without fitting again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.retrievers import Encoder
from luna_kernel.data.portuguese import STOP_WORDS, stem, words
from luna_kernel.data.postings import Vocabulary

from .config import LsaConfig

t = catalogue(__package__)

Matrix = npt.NDArray[np.float32]

_FILE = "lsa.safetensors"
_OVERSAMPLING = 16
_POWER_ITERATIONS = 3
_FEW_PRODUCTS = 1 << 24
"""So many are done with NumPy before PyTorch is loaded: a question would wait a second for that."""


class SparseRows:
    """A sparse matrix (N, V) by rows, with the two products that the decomposition needs."""

    def __init__(self, columns: Sequence[npt.NDArray[Any]], values: Sequence[Matrix], width: int) -> None:
        self.shape = (len(columns), width)
        rows = np.repeat(np.arange(len(columns)), [len(row) for row in columns])
        self._rows = rows
        self._columns = np.concatenate(columns) if columns else np.zeros(0, np.int64)
        self._values = np.concatenate(values) if values else np.zeros(0, np.float32)

    def times(self, dense: Matrix) -> Matrix:
        """self (N, V) @ dense (V, k) -> (N, k)."""
        return _sum_products(self._rows, self._columns, self._values, dense, self.shape[0])

    def transposed_times(self, dense: Matrix) -> Matrix:
        """self.T (V, N) @ dense (N, k) -> (V, k)."""
        order = np.argsort(self._columns, kind="stable")
        return _sum_products(self._columns[order], self._rows[order], self._values[order], dense, self.shape[1])


def _sum_products(out: npt.NDArray[Any], of: npt.NDArray[Any], values: Matrix, dense: Matrix, size: int) -> Matrix:
    """`result[out[p]] += values[p] * dense[of[p]]` for all p; `out` ascends. A weighted sum of embeddings is that."""
    if not len(of):
        return np.zeros((size, dense.shape[1]), np.float32)
    starts = np.searchsorted(out, np.arange(size))
    if len(of) * dense.shape[1] <= _FEW_PRODUCTS:
        sums_of_few = np.zeros((size, dense.shape[1]), np.float32)
        filled = np.diff(starts, append=len(of)) > 0
        sums_of_few[filled] = np.add.reduceat(values[:, None] * dense[of], starts[filled])
        return sums_of_few
    import torch

    with torch.no_grad():
        sums = torch.nn.functional.embedding_bag(
            torch.from_numpy(np.ascontiguousarray(of, np.int64)),
            torch.from_numpy(np.ascontiguousarray(dense)),
            torch.from_numpy(starts.astype(np.int64)),
            mode="sum",
            per_sample_weights=torch.from_numpy(np.ascontiguousarray(values, np.float32)),
        )
    return sums.numpy()


class LsaEncoder(Encoder):
    """Encodes a text by what its stems and parts of words have in common with the documents it was fitted on."""

    config: LsaConfig

    def __init__(self, config: LsaConfig | None = None) -> None:
        super().__init__(config or LsaConfig())
        self._vocabulary = Vocabulary()
        self._idf: Matrix = np.zeros(0, np.float32)
        self._projection: Matrix = np.zeros((0, 0), np.float32)
        """(V, dimension)."""
        self._features: dict[str, list[str]] = {}

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """Length of the vectors; 0 before `fit`."""
        return int(self._projection.shape[1])

    def fit(self, texts: Sequence[str]) -> None:
        """Learn vocabulary, weights and directions from `texts`."""
        counted = [self._count(text) for text in texts]
        frequency: dict[str, int] = {}
        for counts in counted:
            for feature in counts:
                frequency[feature] = frequency.get(feature, 0) + 1
        # A feature of one text only relates it to nothing, except where there are few texts at all.
        least = 2 if len(texts) > 50 else 1
        kept = [feature for feature, count in frequency.items() if count >= least]
        kept.sort(key=lambda feature: (-frequency[feature], feature))
        self._vocabulary = Vocabulary(kept[: self.config.max_features])
        counts_of = np.asarray([frequency[feature] for feature in self._vocabulary.terms], np.float64)
        self._idf = (1 + np.log((1 + len(texts)) / (1 + counts_of))).astype(np.float32)
        self._projection = _right_singular_vectors(self._rows(counted), self.config.dimension, self.config.seed)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        """float32 (N, dimension), rows of length 1, or 0 where the text holds nothing known."""
        if not self.dimension:
            return np.zeros((len(texts), 0), np.float32)
        vectors = self._rows([self._count(text) for text in texts]).times(self._projection)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        # What lies outside the learned directions leaves rounding noise; noise has no direction worth a length of 1.
        vectors[lengths[:, 0] < 1e-4] = 0
        unit: Matrix = vectors / np.maximum(lengths, 1e-4)
        return unit

    def _count(self, text: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        for word in words(text):
            if word in STOP_WORDS:
                continue
            for feature in self._features_of(word):
                counts[feature] = counts.get(feature, 0) + 1
        return counts

    def _features_of(self, word: str) -> list[str]:
        found = self._features.get(word)
        if found is None:
            low, high = self.config.min_n, self.config.max_n
            bounded = f" {word} "
            grams = [bounded[i : i + n] for n in range(low, high + 1) for i in range(len(bounded) - n + 1)]
            found = self._features[word] = [f"={stem(word)}", *grams]
        return found

    def _rows(self, counted: Sequence[dict[str, int]]) -> SparseRows:
        """Unit-length TF-IDF rows (N, V)."""
        numbers = self._vocabulary.numbers
        columns, values = [], []
        for counts in counted:
            known = [(numbers[feature], count) for feature, count in counts.items() if feature in numbers]
            column = np.asarray([number for number, _ in known], np.int64)
            value = (1 + np.log(np.asarray([count for _, count in known], np.float32))) * self._idf[column]
            columns.append(column)
            values.append((value / max(float(np.linalg.norm(value)), 1e-9)).astype(np.float32))
        return SparseRows(columns, values, len(self._vocabulary))

    def save(self, folder: Path) -> None:
        """Write it into `folder`."""
        from safetensors.numpy import save

        blob = np.frombuffer("\n".join(self._vocabulary.terms).encode("utf-8"), np.uint8)
        arrays = {"idf": self._idf, "projection": self._projection, "vocabulary": blob}
        durable.write_bytes(folder / _FILE, save({name: np.ascontiguousarray(item) for name, item in arrays.items()}))

    @classmethod
    def load(cls, config: LsaConfig | None, folder: Path) -> LsaEncoder:
        """Open what `save` wrote."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        encoder = cls(config)
        try:
            arrays = load((folder / _FILE).read_bytes())
            words = arrays["vocabulary"].tobytes().decode("utf-8")
            encoder._vocabulary = Vocabulary(words.split("\n") if words else [])
            encoder._idf, encoder._projection = arrays["idf"], arrays["projection"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise IntegrityError(t("index.unreadable", path=folder / _FILE, reason=error)) from error
        size = len(encoder._vocabulary)
        if encoder._idf.shape != (size,) or encoder._projection.shape[0] != size:
            raise IntegrityError(t("index.unreadable", path=folder / _FILE, reason=t("index.disagrees")))
        return encoder


def _right_singular_vectors(matrix: SparseRows, rank: int, seed: int) -> Matrix:
    """The leading right singular vectors of `matrix` (N, V) as columns, (V, rank or fewer)."""
    count, width = matrix.shape
    rank = min(rank, count, width)
    if rank == 0:
        return np.zeros((width, 0), np.float32)
    probes = min(rank + _OVERSAMPLING, count, width)
    random = np.random.default_rng(seed).standard_normal((width, probes), dtype=np.float32)
    basis = _orthonormal(matrix.times(random))
    for _ in range(_POWER_ITERATIONS):
        basis = _orthonormal(matrix.times(_orthonormal(matrix.transposed_times(basis))))
    small = matrix.transposed_times(basis)  # (V, probes) = (basis.T @ matrix).T; its left vectors are the ones sought
    return np.ascontiguousarray(_orthonormal(small)[:, :rank])


def _orthonormal(matrix: Matrix) -> Matrix:
    """The left singular vectors of a tall `matrix` (N, k), strongest first, without those that are only rounding noise.

    By the eigenvectors of the small Gram matrix (k, k): a Householder QR of a million rows takes minutes.
    """
    gram = (matrix.T @ matrix).astype(np.float64)
    strengths, directions = np.linalg.eigh(gram)
    real = strengths > 1e-7 * max(float(strengths[-1]), 1e-30)
    scaled = directions[:, real] / np.sqrt(strengths[real])
    orthonormal: Matrix = matrix @ scaled[:, ::-1].astype(np.float32)
    return orthonormal
