"""The personas that come with the plugin, from the JSON files in `data/`."""

from __future__ import annotations

import json
from functools import partial
from importlib import resources

from luna_kernel.contracts.personas import Persona

from .files import make_persona


def bundled(name: str) -> Persona:
    """The persona of `data/<name>.json`, its lines in the user's language."""
    file = resources.files(__package__) / "data" / f"{name}.json"
    return make_persona(name, json.loads(file.read_text(encoding="utf-8")), where=file.name)


tecnico = partial(bundled, "tecnico")
casual = partial(bundled, "casual")
formal = partial(bundled, "formal")
balanced = partial(bundled, "balanced")
academic = partial(bundled, "academic")
friendly = partial(bundled, "friendly")
