"""The personas that come with the plugin, read from `data/NAME.toml` when they are asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from luna_kernel.contracts.personas import Persona

from .files import read_persona

_DATA = Path(__file__).parent / "data"


def _shipped(name: str) -> Callable[[], Persona]:
    return functools.partial(read_persona, _DATA / f"{name}.toml")


tecnico = _shipped("tecnico")
casual = _shipped("casual")
formal = _shipped("formal")
balanced = _shipped("balanced")
academic = _shipped("academic")
friendly = _shipped("friendly")
