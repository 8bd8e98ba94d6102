"""Luna: a toolkit for small language models that speak Portuguese. This package is the kernel; the rest are plugins.

A plugin needs two names from here, and importing them imports nothing heavy:

    from luna_kernel import LUNA_API, hookimpl

A program needs one more:

    from luna_kernel import Luna
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker

__version__ = "0.1.0"

LUNA_API = 1
"""The integer that a plugin repeats. It grows when a plugin of the old kind would no longer work."""

hookimpl = HookimplMarker("luna")

if TYPE_CHECKING:
    from luna_kernel.cli.api import Luna

__all__ = ["LUNA_API", "Luna", "__version__", "hookimpl"]


def __getattr__(name: str) -> Any:
    """`Luna`, imported when it is asked for."""
    if name == "Luna":
        return importlib.import_module("luna_kernel.cli.api").Luna
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
