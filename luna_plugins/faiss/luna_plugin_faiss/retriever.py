"""The dense retriever: the nearest vectors of a FAISS index.

FAISS answers −1 where it has nothing, accepts any bytes as an index, and takes NaN in silence. So: labels below 0 are
dropped, vectors that are not finite are refused before they enter, and the index is written through the durable writer
and read only after its hash was checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.encoders import ChosenEncoder
from luna_kernel.contracts.retrievers import Hit, Retriever

from .config import FaissConfig
from .kinds import LEAST, make_index, removes, set_effort

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry

t = catalogue(__package__)

_INDEX, _STATE, _ENCODER = "vectors.faiss", "state.json", "encoder"


class FaissRetriever(Retriever):
    """Chunks whose vectors point the same way as the question's."""

    config: FaissConfig

    def __init__(self, config: FaissConfig | None = None, registry: Registry | None = None) -> None:
        super().__init__(config or FaissConfig(), registry)
        self._encoder = ChosenEncoder(self.config.encoder, registry, where="retriever.faiss.encoder")
        self._index: Any = None
        self._ids: set[int] = set()
        self._gone: set[int] = set()
        """Removed, but still in an index of a kind that cannot remove."""
        least = 0.05 if self.config.metric == "cosine" else -np.inf
        self._least = least if self.config.min_score is None else self.config.min_score

    def add(self, chunk_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Add chunks; the first ones are also what the encoder is fitted on."""
        ids = list(chunk_ids)
        bad = next((item for item in ids if item < 0 or item in self._ids or item in self._gone), None)
        if bad is not None or len(set(ids)) != len(ids) or len(ids) != len(texts):
            raise ValueError(f"id {bad} is negative or not new" if bad is not None else "ids repeat or miss texts")
        if not ids:
            return
        if self._index is None:
            self._encoder.fit(texts)
        vectors = self._vectors(texts)
        if self._index is None:
            self._index = make_index(self.config, self._encoder.dimension, vectors)
        else:
            self._encoder.new_since_fit += len(ids)
        self._index.add_with_ids(vectors, np.asarray(ids, np.int64))
        self._ids.update(ids)

    def _vectors(self, texts: Sequence[str], *, query: bool = False) -> Any:
        vectors = self._encoder.vectors(texts, query=query)
        if self.config.metric == "cosine":
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def remove(self, chunk_ids: Sequence[int]) -> None:
        """Remove chunks; unknown ids are ignored."""
        gone = self._ids & set(chunk_ids)
        if gone:
            if removes(self._index):
                self._index.remove_ids(np.asarray(sorted(gone), np.int64))
            else:
                self._gone |= gone
            self._ids -= gone

    def search(self, query: str, k: int) -> list[Hit]:
        """The nearest chunks above `min_score`."""
        if not self._ids or k <= 0:
            return []
        vector = self._vectors([query], query=True)
        if not vector.any():
            return []
        asked = min(k + len(self._gone), self._index.ntotal)
        set_effort(self._index, self.config, asked)
        scores, labels = self._index.search(vector, asked)
        if self.config.metric == "l2":
            scores = -scores
        hits = [
            Hit(int(label), float(score))
            for score, label in zip(scores[0], labels[0], strict=True)
            if label in self._ids and score >= self._least
        ][:k]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))

    def save(self, folder: Path) -> None:
        """Write index, encoder and state into `folder`, the state with the index's hash."""
        import faiss

        files: dict[str, Any] = {}
        if self._index is not None:
            durable.write_bytes(folder / _INDEX, faiss.serialize_index(self._index).tobytes())
            durable.make_folder(folder / _ENCODER)
            self._encoder.encoder.save(folder / _ENCODER)
            files = integrity.seal(folder)
        state = {
            "files": files,
            **self._encoder.state(),
            "count": len(self._ids),
            "gone": sorted(self._gone),
        }
        durable.write_json(folder / _STATE, state)

    @classmethod
    def load(cls, config: FaissConfig | None, folder: Path, registry: Registry | None = None) -> FaissRetriever:
        """Open what `save` wrote; hashes are checked before FAISS sees a byte.

        Raises:
            OtherEncoderError: made with another encoder.
            IntegrityError: damaged.
        """
        import faiss

        retriever = cls(config, registry)
        state = integrity.read_json(folder / _STATE)
        retriever._encoder.check(state)
        integrity.check(folder, state["files"])
        if not state["files"]:
            return retriever
        retriever._encoder.open(folder / _ENCODER, state)
        retriever._index = _open_index(folder / _INDEX)
        retriever._gone = set(state.get("gone", ()))
        retriever._ids = {int(label) for label in faiss.vector_to_array(retriever._index.id_map)} - retriever._gone
        if retriever._index.d != retriever._encoder.dimension or len(retriever._ids) != state["count"]:
            raise IntegrityError(t("index.unreadable", path=folder / _INDEX, reason=t("index.disagrees")))
        return retriever

    def ids(self) -> set[int]:
        """Ids of the chunks that it holds."""
        return set(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def wants_rebuild(self) -> bool:
        """Whether too much came since the encoder was fitted, or too much that is gone still lies in the index."""
        return (
            self._encoder.outgrown(self.config.refit_growth)
            or len(self._gone) > 0.2 * max(self._index.ntotal if self._index is not None else 0, 5)
            or (self._encoder.fitted_on < LEAST[self.config.index] <= len(self._ids))
        )


def _open_index(path: Path) -> Any:
    """The index, read whole: one that FAISS maps from the disk crashes when vectors are taken out of it (1.15).

    Raises:
        IntegrityError: FAISS cannot read it.
    """
    import faiss

    try:
        index = faiss.deserialize_index(np.frombuffer(path.read_bytes(), np.uint8))
    except (RuntimeError, MemoryError) as error:
        raise IntegrityError(t("index.unreadable", path=path, reason=error)) from error
    return index if isinstance(index, faiss.IndexIDMap) else faiss.downcast_index(index)
