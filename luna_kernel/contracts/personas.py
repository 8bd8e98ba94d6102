"""Ways of speaking: a persona is data, never a program.

A persona says how Luna speaks and how boldly she draws her words. Its texts reach the model as plain characters:
placeholders, templates and control tokens in them mean nothing. The component of kind `persona` is a function or
class that takes nothing (or its validated config) and gives a `Persona`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .chat import Sampling


@dataclass(frozen=True)
class Persona:
    """One way of speaking."""

    name: str
    """How it is asked for: `[a-z0-9][a-z0-9._-]*`."""
    title: str
    """How people see it."""
    description: str = ""
    """One line for lists."""
    system: str = ""
    """What becomes part of the system message, in Portuguese."""
    greeting: str = ""
    """What Luna says when the conversation opens."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Sampling` that differ from the session's: temperature, top_k, top_p, min_p, repetition_penalty,
    max_tokens."""
    style: Mapping[str, float] = field(default_factory=dict)
    """Sliders from 0 to 1: formality, complexity, verbosity, creativity; 0.5, or a missing one, asks for nothing."""

    def apply(self, sampling: Sampling) -> Sampling:
        """`sampling` with this persona's changes."""
        return replace(sampling, **dict(self.sampling))
