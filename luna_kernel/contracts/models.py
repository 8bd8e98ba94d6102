"""Models that a plugin carries: the component is a function or class that gives a `CarriedModel`.

The folder holds what Luna saves: `luna.json`, `model.safetensors`, the tokenizer. It is opened, and its hashes are
checked, like every other model; carrying one gives a plugin no rights over how.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CarriedModel:
    """A model inside an installed plugin."""

    folder: Path
    """Where it lies, read-only: beside the plugin's modules."""
    description: str = ""
    """One line for lists: what it was trained on, what it is good for."""
    license: str = ""
    """SPDX identifier of the weights' licence, which may differ from the code's."""
