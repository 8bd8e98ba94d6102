"""Find installed plugins: one walk over the entry points of group `luna.plugins`, importing none of them."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field

GROUP = "luna.plugins"


@dataclass
class FoundPlugin:
    """An entry point, not yet imported."""

    name: str
    target: str
    """Module, or `module:attribute`."""
    distribution: str
    version: str
    rivals: list[str] = field(default_factory=list)
    """Other distributions that claim the same entry-point name."""


def discover() -> dict[str, FoundPlugin]:
    """All installed plugins by entry-point name, sorted. Two distributions with one name: `rivals` is not empty."""
    found: dict[str, FoundPlugin] = {}
    seen: set[tuple[str, str]] = set()
    for dist in importlib.metadata.distributions():
        points = [point for point in dist.entry_points if point.group == GROUP]
        if not points:
            continue
        # An editable install and a stale wheel of the same distribution may both be on the path: the first one wins,
        # as it does for imports.
        dist_name = str(dist.metadata["Name"] or "?")
        for point in points:
            if (dist_name.lower(), point.name) in seen:
                continue
            seen.add((dist_name.lower(), point.name))
            if point.name in found:
                found[point.name].rivals.append(dist_name)
            else:
                found[point.name] = FoundPlugin(point.name, point.value, dist_name, str(dist.version))
    return dict(sorted(found.items()))
