"""Hardware, and what makes weights smaller.

An explicit choice never falls back: a backend that was asked for and is not there is an error with the reason. `auto`
asks every backend and says what each one answered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Probe:
    """What a backend found on this machine."""

    available: bool
    reason: str
    """In one phrase: why not, or what there is (`2 × NVIDIA A10, driver 550`)."""
    rank: float = 0.0
    """`auto` takes the available backend with the highest; the CPU has 0."""


@dataclass(frozen=True)
class ModelFacts:
    """What a proposal may go by: sizes of a model on disk, before it is opened."""

    weights_bytes: int
    """Of all weights, as they are stored."""
    resident_bytes: int
    """Of what stays in memory when one block's weights are kept at a time: the rest of the model and one block."""
    low_share: float
    """Share of the weights that are stored in bfloat16 or float16, 0 to 1."""
    cache_bytes_per_token: int
    """Of all attention that has no window, per token of the context, in the type of the weights."""
    context_length: int
    top_k: int = 0
    """Most experts that any layer gives to a token; 0: no layer has experts that rest when they are not chosen."""
    resting_bytes: int = 0
    """Of the experts, in all such layers together, that a token does not use."""
    expert_bytes: int = 0
    """What one expert less for a token leaves unread, in all such layers together."""


@dataclass(frozen=True)
class Proposal:
    """A change that leaves trained weights valid. It is shown with its reason, and made only when the user agrees."""

    change: Literal["low_memory", "cache_limit", "precision", "experts_per_token"]
    value: bool | int | str
    """True; tokens; `fp32` or `bf16`; experts."""
    reason: str
    """In the user's language, with the figures that speak for it."""


class Backend(ABC):
    """One kind of hardware."""

    @abstractmethod
    def probe(self) -> Probe:
        """Look, without starting anything on the device. Never raises."""

    @abstractmethod
    def device(self) -> torch.device:
        """The device to compute on. Raises `UsageError` when `probe` says that it is not available."""

    def proposals(self, facts: ModelFacts) -> list[Proposal]:
        """What would let a model run here, or run well; empty where it fits as it is. The default proposes nothing."""
        return []


class Quantizer(ABC):
    """Stores matrices in fewer bits."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def quantize(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        """The tensors that stand for `weight` (out, in) in the file, by suffix: `{"q": …, "scale": …}`."""

    @abstractmethod
    def dequantize(self, name: str, stored: dict[str, Tensor]) -> Tensor:
        """`weight` again, within `error_bound`."""

    @property
    @abstractmethod
    def error_bound(self) -> float:
        """The largest error of an entry, relative to the largest entry of its row; tests hold it to this."""


class Pruner(ABC):
    """Takes weights away."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def masks(self, model: nn.Module, sparsity: float) -> dict[str, Tensor]:
        """For each matrix by name, a bool tensor of its shape: True stays. `sparsity` is the share that goes."""
