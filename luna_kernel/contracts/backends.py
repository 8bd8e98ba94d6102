"""Hardware, and what makes weights smaller.

An explicit choice never falls back: a backend that was asked for and is not there is an error with the reason. `auto`
asks every backend and says what each one answered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


class Backend(ABC):
    """One kind of hardware."""

    @abstractmethod
    def probe(self) -> Probe:
        """Look, without starting anything on the device. Never raises."""

    @abstractmethod
    def device(self) -> torch.device:
        """The device to compute on. Raises `UsageError` when `probe` says that it is not available."""


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
