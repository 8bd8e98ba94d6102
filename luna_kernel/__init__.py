"""Luna: a toolkit for small language models that speak Portuguese. This package is the kernel; the rest are plugins.

A plugin needs two names from here, and importing them imports nothing heavy:

    from luna_kernel import LUNA_API, hookimpl
"""

from pluggy import HookimplMarker

__version__ = "0.1.0"

LUNA_API = 1
"""The integer that a plugin repeats. It grows when a plugin of the old kind would no longer work."""

hookimpl = HookimplMarker("luna")

__all__ = ["LUNA_API", "__version__", "hookimpl"]
