"""Read a persona from its file, TOML or JSON. A persona is data: nothing in it is looked up, filled in or run."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.paths import is_safe_name
from luna_kernel.base.reasons import problem_of, reason_of
from luna_kernel.contracts.personas import Persona
from luna_kernel.plugins.registry import suggest

from .config import PersonaFile, SamplingChanges, Style, Words

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

t = catalogue(__package__)

ENDINGS = (".toml", ".json")
MAX_BYTES = 64 * 1024
"""A larger file is no persona."""


def read_persona(path: Path) -> Persona:
    """The persona of a file; its name is the file's, in lower case and without accents.

    Raises:
        UsageError: there is no such file, it cannot be read, or its name cannot be a persona's.
        ConfigError: it does not parse or validate; names the field and the nearest right one.
    """
    name = fold(path.stem)
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(t("file.ending", path=path), hint=t("file.hint"))
    if not is_safe_name(name):
        raise UsageError(t("file.bad_name", path=path), hint=t("name.hint"))
    return make_persona(name, _parse(path, _read(path)), where=str(path))


def make_persona(name: str, fields: Any, *, where: str) -> Persona:
    """The persona `name` from the fields of its file.

    Raises:
        ConfigError: they do not validate; `where` says where they stand.
    """
    try:
        file = PersonaFile.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(explain(error, where), hint=t("file.fields", fields=", ".join(_known()))) from error
    return Persona(
        name=name,
        title=str(file.title or "") or name,
        description=str(file.description or ""),
        system=file.system,
        greeting=file.greeting,
        sampling=file.sampling.model_dump(exclude_none=True),
        style=file.style.model_dump(exclude_defaults=True),
    )


def fold(text: str) -> str:
    """`text` as a name: lower case, without accents, hyphens for blanks. `Técnico` is `tecnico`."""
    letters = unicodedata.normalize("NFKD", text.strip().lower())
    return "-".join("".join(c for c in letters if not unicodedata.combining(c)).split())


def explain(error: ValidationError, where: str) -> str:
    """One line per wrong field, those that do not exist first and with the nearest right one: they explain the rest."""
    lines = []
    items = error.errors(include_url=False, include_input=False)
    for item in sorted(items, key=lambda item: item["type"] != "extra_forbidden"):
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(t("file.unknown_field", where=where, field=path[:80]) + suggest(path, _known()))
        else:
            lines.append(t("file.bad_field", where=where, field=path or "-", reason=problem_of(item)))
    return "\n".join(lines)


def _known() -> list[str]:
    """Every field that a file may have, dotted."""
    fields = [name for name in PersonaFile.model_fields if name not in ("sampling", "style")]
    fields += [f"{line}.{language}" for line in ("title", "description") for language in Words.model_fields]
    fields += [f"style.{name}" for name in Style.model_fields]
    return fields + [f"sampling.{name}" for name in SamplingChanges.model_fields] + ["sampling"]


def _read(path: Path) -> str:
    try:
        if not path.is_file():  # raises where a folder above may not be read or a name is too long
            raise UsageError(t("file.missing", path=path), hint=t("file.hint"))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(t("file.unreadable", path=path, reason=reason_of(error))) from error
    if len(data) > MAX_BYTES:
        raise UsageError(t("file.too_large", path=path, limit=MAX_BYTES // 1024))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(t("file.not_utf8", path=path, byte=error.start), hint=t("file.not_utf8.hint")) from error


def _parse(path: Path, text: str) -> Any:
    try:
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        return json.loads(text, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:  # both parsers' errors are ValueErrors
        raise ConfigError(t("file.syntax", path=path, reason=str(error)), hint=t("file.hint")) from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON itself would let the last of two fields of the same name win in silence."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key[:80]!r} twice")
        found[key] = value
    return found
