"""Adapters and growers: what changes a model that exists.

An adapter sits beside a frozen layer and learns; a grower makes a model larger. Both leave the function as it is at
birth: the output before equals the output after, to the bit for an adapter and for new blocks, to rounding for width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry


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
    """A model in the making: things that change together."""

    blueprint: dict[str, Any]
    """As `Blueprint.to_json` gives it, every field of every configuration written out."""
    weights: dict[str, Tensor]
    """The model's `state_dict`, buffers included."""
    optimizer_state: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What optimisers keep, by parameter name; a new parameter has none, so it begins with zero moments."""
    births: dict[str, int] = field(default_factory=dict)
    """By parameter name: the `step` at which it was added. Absent: it was there from the start. What is in here has a
    learning rate and a warm-up of its own; a grower enters what it adds, and keeps the entries of what it renames."""
    step: int = 0
    """Steps done."""


class Grower(ABC):
    """A pure transformation between two steps of training: nothing that it is given is changed.

    The loop compares the logits before and after on a probe batch, in float32, and refuses a growth that changes them
    by more than `tolerance`. What it draws comes from torch's generator, which the loop seeds by seed and step.
    """

    tolerance: ClassVar[float | None] = 1e-5
    """Largest difference of a logit, relative to the largest logit; 0: to the bit. None: it changes the function by
    design; the difference is reported."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def grow(self, model: Grown, registry: Registry) -> Grown:
        """The larger model.

        Args:
            model: what is there; to be left alone, but tensors that stay as they are may be handed on.
            registry: the components of the plugins that are on, to ask layers (`ModelPart.output_parameters`).

        Raises:
            LunaError: a layer of the model cannot be grown this way; names it and its place.
        """
