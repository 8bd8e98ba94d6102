"""Adapters and growers: what changes a model that exists.

An adapter sits beside a frozen layer and learns; a grower makes a model larger. Both leave the function as it is at
birth: the output before equals the output after, to the bit for an adapter, to rounding for a grower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


class Adapter(nn.Module, ABC):
    """Stands in for a linear layer: its own small weights are trained, the wrapped one's are not.

    Args of the constructor: `config`, the validated configuration, and `wrapped`, the layer to adapt.
    """

    def __init__(self, config: Any, wrapped: nn.Linear) -> None:
        super().__init__()
        self.config, self.wrapped = config, wrapped

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Map x (…, in) to (…, out); equal to the wrapped layer's result until the first step of training."""

    @abstractmethod
    def merged(self) -> nn.Linear:
        """A plain layer that computes the same, to 1e-5 in float32: the adapter folded into the weights."""


@dataclass
class Grown:
    """A model in the making: three things that change together."""

    blueprint: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer_state: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By parameter name; a new parameter has none."""


class Grower(ABC):
    """A pure transformation between two steps of training: nothing that it is given is changed."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def should_grow(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether now is the time."""

    @abstractmethod
    def grow(self, model: Grown) -> Grown:
        """The larger model. The loop compares both on a probe batch and refuses a growth that changes the output."""
