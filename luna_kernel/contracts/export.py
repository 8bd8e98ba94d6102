"""Other formats: what carries a model out of Luna or into it.

An exported model gives the same logits as the original (the exporter says to what tolerance), or the export fails and
names the part that the format cannot hold. An importer never runs code from what it reads: no pickle, no templates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luna_kernel.plugins import Manifest


class Exporter(ABC):
    """Writes a model in another format."""

    tolerance: float = 1e-4
    """The largest difference of a logit between the original and the exported model, in float32."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def obstacles(self, manifest: Manifest) -> list[str]:
        """The parts of the model that the format cannot hold, one sentence each; empty: it can be exported."""

    @abstractmethod
    def export(self, model: Path, target: Path) -> None:
        """Write the model in folder `model` to `target`, through `luna_kernel.base.durable`."""


class Importer(ABC):
    """Makes a Luna model out of another format."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @classmethod
    @abstractmethod
    def recognizes(cls, source: Path) -> bool:
        """Whether `source` looks like this format; reads a few bytes at most."""

    @abstractmethod
    def import_model(self, source: Path, target: Path) -> None:
        """Write a Luna model to the folder `target`. Every tensor of the source is used, or named in an error."""
