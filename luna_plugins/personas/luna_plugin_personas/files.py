"""Personas from files: strict, bounded, and never more than data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.paths import config_dir, is_safe_name
from luna_kernel.contracts.personas import Persona
from luna_kernel.plugins.registry import Registry, suggest, validate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from .config import PersonaFile

t = catalogue(__package__)

_SUFFIXES = (".toml", ".json")
_MAX_BYTES = 65_536


def personas_dir() -> Path:
    """Where one's own personas lie: `NAME.toml` or `NAME.json`."""
    return config_dir() / "personas"


def own_names() -> list[str]:
    """Names of one's own personas, sorted."""
    folder = personas_dir()
    if not folder.is_dir():
        return []
    return sorted({p.stem for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file() and is_safe_name(p.stem)})


def known_names(registry: Registry) -> list[str]:
    """Names of all personas: those of plugins, then one's own."""
    shipped = [component.name for component in registry.of_kind("persona")]
    return shipped + [name for name in own_names() if name not in shipped]


def find_persona(name: str, registry: Registry) -> Persona:
    """The persona of that name, or in that file (a path with `/`, or one that ends in .toml or .json).

    One's own persona of the name of a shipped one takes its place.

    Raises:
        UsageError: there is none; names the nearest. Or the file is not a persona; names file and field.
    """
    if "/" in name or name.endswith(_SUFFIXES):
        return read_persona(Path(name).expanduser())
    if is_safe_name(name):
        for suffix in _SUFFIXES:
            path = personas_dir() / f"{name}{suffix}"
            if path.is_file():
                return read_persona(path)
        component = registry.find("persona", name)
        if component is not None:
            made: Persona = component.load()(*[c for c in [component.make_config()] if c is not None])
            return made
    known = known_names(registry)
    hint = t("persona.known", names=", ".join(known) or "-", folder=personas_dir())
    raise UsageError(t("persona.unknown", name=name[:80]) + suggest(name, known), hint=hint)


def read_persona(path: Path) -> Persona:
    """The persona in a file, named after it.

    Raises:
        UsageError: the file is missing, too large, not TOML or JSON, or a field is wrong.
    """
    if not is_safe_name(path.stem):
        raise UsageError(t("persona.bad_name", path=path, name=path.stem), hint=t("persona.bad_name.hint"))
    if path.suffix not in _SUFFIXES:
        raise UsageError(t("persona.bad_suffix", path=path))
    return make_persona(path.stem, _read(path), where=str(path))


def make_persona(name: str, fields: Mapping[str, Any], *, where: str) -> Persona:
    """A persona from its fields.

    Raises:
        ConfigError: names the place, each wrong field, and the nearest right one.
    """
    file = validate(PersonaFile, fields, where=where)
    assert isinstance(file, PersonaFile)
    return Persona(
        name=name,
        title=file.title,
        description=file.description,
        system=file.system.strip(),
        greeting=file.greeting.strip(),
        sampling=file.sampling.model_dump(exclude_none=True),
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(t("persona.too_large", path=path, limit=_MAX_BYTES // 1024))
        if path.suffix == ".json":
            from luna_kernel.base.integrity import read_json

            fields = read_json(path, max_bytes=_MAX_BYTES, max_depth=4)
        else:
            fields = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(t("persona.no_file", path=path)) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(t("persona.unreadable", path=path, reason=error)) from error
    except UsageError:
        raise
    except LunaError as error:
        raise UsageError(t("persona.unreadable", path=path, reason=error.text)) from error
    if not isinstance(fields, Mapping):
        raise UsageError(t("persona.unreadable", path=path, reason=t("persona.no_table")))
    return fields
