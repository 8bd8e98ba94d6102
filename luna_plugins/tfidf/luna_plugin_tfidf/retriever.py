"""The TF-IDF retriever: cosine of weighted n-gram counts.

Weight of an n-gram in a text (Salton and Buckley, "Term-weighting approaches in automatic text retrieval", 1988):
`(1 + ln f) · (1 + ln((1 + N) / (1 + n)))` with f its count there, n the chunks that hold it, N all chunks; vectors have
length 1. Weights follow from the counts of the living chunks at the time of the search: a chunk that comes or goes
changes them for all, at once, exactly as if the index had been made anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError
from luna_kernel.contracts.retrievers import Hit, Retriever
from luna_kernel.data.postings import Postings, Vocabulary
from luna_kernel.data.postings_file import load_postings, save_postings
from luna_kernel.data.top_rows import Floats, Ints
from luna_kernel.data.weighted_search import WeightedSearch

from .config import TfidfConfig
from .ngrams import Gramifier

_NORMS = "norms.safetensors"

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry


class TfidfRetriever(Retriever):
    """Parts of words that question and chunk share; scores are cosines, 0 to 1."""

    config: TfidfConfig
    takes_batches = True

    def __init__(self, config: TfidfConfig | None = None, registry: Registry | None = None) -> None:
        super().__init__(config or TfidfConfig(), registry)
        self._vocabulary = Vocabulary()
        self._grams = Gramifier(self.config, self._vocabulary)
        self._postings = Postings()
        self._search = WeightedSearch(self._postings, self._share)
        self._idf: Floats = np.zeros(0, np.float32)
        self._norms: Floats = np.zeros(0, np.float32)
        self._weights_version = -1
        self._norms_version = -1

    def add(self, chunk_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Add chunks; see `Retriever.add`."""
        self._postings.add(chunk_ids, [self._grams.learn(text) for text in texts])

    def remove(self, chunk_ids: Sequence[int]) -> None:
        """Remove chunks; unknown ids are ignored."""
        self._postings.remove(chunk_ids)

    def _weigh(self) -> None:
        """Bring IDF (vocabulary,) and the lengths of the chunks' vectors (rows,) up to date."""
        postings = self._postings
        if self._weights_version == postings.version:
            return
        frequencies = postings.document_frequencies(len(self._vocabulary))
        self._idf = (1 + np.log((1 + len(postings)) / (1 + frequencies))).astype(np.float32)
        self._weights_version = postings.version
        if self._norms_version == postings.version:
            return
        squares = postings.squares(lambda counts, terms: (1 + np.log(counts.astype(np.float32))) * self._idf[terms])
        self._norms = np.sqrt(np.maximum(squares, 1e-12)).astype(np.float32)
        self._norms_version = postings.version

    def search(self, query: str, k: int) -> list[Hit]:
        """The chunks nearest to the query by cosine, none that shares no n-gram with it."""
        postings = self._postings
        if not len(postings):
            return []
        self._weigh()
        asked: dict[int, float] = {}
        unseen = 1 + math.log(1 + len(postings))
        length = 0.0
        for gram, times in self._grams.count(query).items():
            # An n-gram that no chunk has adds to the query's length: what is not here lowers every cosine.
            number = self._vocabulary.numbers.get(gram)
            idf = unseen if number is None else float(self._idf[number])
            weight = (1 + math.log(times)) * idf
            length += weight * weight
            if number is not None:
                asked[number] = weight
        found = self._search.best(asked, k)
        root = math.sqrt(length) or 1.0
        return [Hit(chunk_id, min(1.0, score / root)) for chunk_id, score in found]

    def _share(self, rows: Ints, counts: Ints, terms: Ints) -> Floats:
        """float32 (P,): the entries of the chunks' unit vectors."""
        return (1 + np.log(counts.astype(np.float32))) * self._idf[terms] / self._norms[rows]

    def save(self, folder: Path) -> None:
        """Write the index into `folder`, with the lengths of the vectors, which take seconds to compute for many."""
        from safetensors.numpy import save

        save_postings(folder, self._postings, self._vocabulary)
        self._weigh()
        durable.write_bytes(folder / _NORMS, save({"norms": self._norms}))

    @classmethod
    def load(cls, config: TfidfConfig | None, folder: Path, registry: Registry | None = None) -> TfidfRetriever:
        """Open what `save` wrote."""
        retriever = cls(config, registry)
        retriever._postings, retriever._vocabulary = load_postings(folder)
        retriever._search = WeightedSearch(retriever._postings, retriever._share)
        retriever._grams = Gramifier(retriever.config, retriever._vocabulary)
        if (folder / _NORMS).is_file():
            retriever._take_norms(folder / _NORMS)
        return retriever

    def _take_norms(self, path: Path) -> None:
        """Use the lengths of the vectors as they were saved; they hold until a chunk comes or goes."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            norms = load(path.read_bytes())["norms"]
        except (OSError, SafetensorError, KeyError) as error:
            raise IntegrityError(f"{path}: {error}") from error
        if norms.shape != self._postings.ids.shape or norms.dtype != np.float32:
            raise IntegrityError(f"{path}: {norms.dtype} {norms.shape}")
        self._norms = norms
        self._norms_version = self._postings.version

    def ids(self) -> set[int]:
        """Ids of the chunks that it holds."""
        return self._postings.live_ids()

    def __len__(self) -> int:
        return len(self._postings)
