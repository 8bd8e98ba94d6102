"""The encoder `model`: the mean of a Luna model's last hidden states.

A language model's states lie in a narrow cone (Ethayarajh 2019, arXiv:1909.00512): without their common part, the mean
over the documents, cosines say little.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.retrievers import Encoder

from .config import ModelConfig
from .pooling import batches, padded, pool
from .source import check_source, fingerprint, write_source

t = catalogue(__package__)

_MEAN = "mean.safetensors"
_FITTED = 4096
"""Texts whose mean is taken at most."""

Matrix = npt.NDArray[np.float32]


class ModelEncoder(Encoder):
    """Encodes a text by what a model makes of it.

    Raises:
        UsageError: there is no such model, or it has no tokenizer.
    """

    config: ModelConfig

    def __init__(self, config: ModelConfig) -> None:
        from luna_kernel.chat.models import find_model
        from luna_kernel.model.checkpoint import open_model

        super().__init__(config)
        folder = find_model(config.model)
        opened = open_model(folder)
        if opened.tokenizer is None:
            raise UsageError(t("model.no_tokenizer", model=config.model))
        self._model, self._tokenizer = opened.model, opened.tokenizer
        self._hash = fingerprint(folder.glob("*.safetensors"))
        self.dimension = int(self._model.dims.d_model)
        self._mean: Matrix = np.zeros(self.dimension, np.float32)

    def fit(self, texts: Sequence[str]) -> None:
        """Take the mean vector of the texts, of some thousands of them where there are more."""
        if self.config.center:
            step = max(1, len(texts) // _FITTED)
            vectors = self._states(texts[::step])
            if len(vectors):
                self._mean = vectors.mean(0)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Matrix:
        """float32 (N, D), rows of length 1, or 0 for an empty text; what is longer than the model reads is cut."""
        vectors = self._states(texts)
        there = vectors.any(1, keepdims=True)
        vectors = np.where(there, vectors - self._mean, 0)
        unit: Matrix = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)
        return unit

    def _states(self, texts: Sequence[str]) -> Matrix:
        """The mean state of each text, (N, D), each of length 1 before the mean of all is taken off."""
        limit = int(self._model.dims.max_positions)
        sequences = [self._tokenizer.encode(text)[:limit] for text in texts]
        filled = [place for place, ids in enumerate(sequences) if ids]
        found = np.zeros((len(texts), self.dimension), np.float32)
        with torch.inference_mode():
            for group in batches([sequences[place] for place in filled], self.config.batch_tokens):
                places = [filled[index] for index in group]
                ids, there = padded([sequences[place] for place in places])
                states = self._model.hidden(ids, there.to(torch.int64))
                vectors = pool(states.float(), there, "mean")
                found[places] = torch.nn.functional.normalize(vectors, dim=-1).numpy()
        return found

    def save(self, folder: Path) -> None:
        """Write the mean, and which model it is of; the model itself stays where it is."""
        from safetensors.numpy import save

        write_source(folder, self.config.model, self._hash)
        durable.write_bytes(folder / _MEAN, save({"mean": self._mean}))

    @classmethod
    def load(cls, config: Any, folder: Path) -> ModelEncoder:
        """Open what `save` wrote.

        Raises:
            OtherEncoderError: the model has changed since.
            IntegrityError: the mean is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        encoder = cls(config)
        check_source(folder, config.model, encoder._hash)
        try:
            mean = load((folder / _MEAN).read_bytes())["mean"]
        except (OSError, SafetensorError, KeyError) as error:
            raise IntegrityError(f"{folder / _MEAN}: {error}") from error
        if mean.shape != encoder._mean.shape or mean.dtype != np.float32 or not np.isfinite(mean).all():
            raise IntegrityError(f"{folder / _MEAN}: {mean.dtype} {mean.shape}")
        encoder._mean = mean
        return encoder
