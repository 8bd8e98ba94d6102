"""The sizes that all layers of a model share; free of torch, so that a blueprint can be read without it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Dims:
    """The sizes that all layers of a model share."""

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_dim: int
    max_positions: int
    norm_eps: float = 1e-5
    init_std: float = 0.02
    """Standard deviation of a fresh matrix."""

    @property
    def residual_std(self) -> float:
        """Standard deviation of a fresh matrix that writes into the residual stream.

        There are two such matrices per block, so each is scaled by 1/sqrt(2 L) and the sum keeps its variance
        (GPT-2, Radford et al. 2019, section 2.3).
        """
        return self.init_std / math.sqrt(2 * self.num_layers)
