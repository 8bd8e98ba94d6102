"""From what somebody typed to a persona: a file, one of the user's own by name, or a component of a plugin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from luna_kernel.base.errors import LunaError, PluginError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.paths import config_dir, is_safe_name
from luna_kernel.contracts.personas import Persona
from luna_kernel.plugins.registry import suggest

from .config import SamplingChanges
from .files import ENDINGS, explain, fold, read_persona

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Component, Registry

t = catalogue(__package__)

OFF = ("off", "none", "nenhuma")
"""Asked for by one of these names, nobody speaks."""

AUTO = "auto"
"""Asked for by this name, the one speaks who suits each message."""


def personas_dir() -> Path:
    """The folder of the user's own personas, whether it is there or not."""
    return config_dir() / "personas"


def find_persona(asked: str, registry: Registry) -> Persona | None:
    """The persona that `asked` names, or None for `off`.

    What has a slash or ends in `.toml` or `.json` is a file. A name is first looked for among the user's own, then
    among those of the plugins.

    Raises:
        UsageError: unknown, with the nearest name and the list; or its file cannot be used.
        PluginError: a plugin's persona is broken.
    """
    asked = asked.strip()
    if is_file_name(asked):
        try:
            return read_persona(Path(asked).expanduser())
        except RuntimeError as error:  # ~somebody who does not exist
            raise UsageError(t("file.missing", path=asked), hint=t("file.hint")) from error
    name = fold(asked)
    if name in OFF:
        return None
    if is_safe_name(name):
        own = _own_files().get(name, [])
        if len(own) > 1:
            raise UsageError(t("persona.two_files", name=name, files=", ".join(str(path) for path in own)))
        if own:
            return read_persona(own[0])
        component = registry.find("persona", name)
        if component is not None:
            return _make(component)
    names = known_names(registry)
    raise UsageError(
        t("persona.unknown", name=asked[:80]) + suggest(name[:80], names),
        hint=t("persona.known", names=", ".join(names) or "-") + "\n" + t("persona.own", folder=personas_dir()),
    )


def is_file_name(asked: str) -> bool:
    """Whether `asked` means a file and not a name."""
    return "\0" not in asked and ("/" in asked or "\\" in asked or asked.lower().endswith(ENDINGS))


def known_names(registry: Registry) -> list[str]:
    """The plugins' personas in their order, then the user's own."""
    names = [item.name for item in registry.of_kind("persona") if item.name not in (*OFF, AUTO)]
    return names + [name for name in sorted(_own_files()) if name not in names]


def each_persona(registry: Registry) -> dict[str, Persona | LunaError]:
    """Name to persona of all that are known; in the place of a broken one, what is wrong with it."""
    return {name: _find_or_error(name, registry) for name in known_names(registry)}


def _find_or_error(name: str, registry: Registry) -> Persona | LunaError:
    try:
        persona = find_persona(name, registry)
    except LunaError as error:
        return error
    assert persona is not None, "off is no known name"
    return persona


def _own_files() -> dict[str, list[Path]]:
    """Name to files of the user's own personas. Files whose name cannot be a persona's are none."""
    found: dict[str, list[Path]] = {}
    try:
        paths = sorted(personas_dir().iterdir())
    except OSError:
        return {}
    for path in paths:
        name = fold(path.stem)
        if path.suffix.lower() in ENDINGS and is_safe_name(name) and name not in (*OFF, AUTO):
            found.setdefault(name, []).append(path)
    return found


def _make(component: Component) -> Persona:
    """Let a plugin make its persona, and look at what it gave."""
    make = component.load()
    persona = make(component.make_config()) if component.config else make()
    if not isinstance(persona, Persona):
        reason = t("persona.not_one", type=type(persona).__name__)
    else:
        try:
            SamplingChanges.model_validate(dict(persona.sampling))
        except ValidationError as error:
            reason = explain(error, "sampling")
        else:
            return persona
    raise PluginError(t("persona.broken", name=component.name, plugin=component.plugin, reason=reason))
