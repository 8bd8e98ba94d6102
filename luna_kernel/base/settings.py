"""Settings, each from the first place that has it.

Command line > environment (`LUNA_…`) > project file (`luna.toml` here or above) > user file (`settings.toml` in the
configuration folder) > default. Unknown keys are errors. Imports pydantic-settings, so import it late.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from luna_kernel.base.errors import ConfigError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import problem_of, reason_of
from luna_kernel.base.settings_files import project_file, user_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

t = catalogue(__package__)

PREFIX = "LUNA_"

# Fields with a path, which in a file is relative to that file; of the second kind only if it begins with a dot.
_PATHS = ("docs", "data_dir")
_NAMES_OR_PATHS = ("model", "persona")


class Settings(BaseSettings):
    """What a user can set once for every command. None leaves the choice to the model or to the command.

    Args:
        command_line: fields that were given on the command line; None counts as not given.

    Raises:
        ConfigError: an unknown key or a wrong value; the text names the place, the key and the nearest right one.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, use_attribute_docstrings=True
    )

    lang: Literal["pt_BR", "en"] | None = None
    """Language of messages; else the locale decides."""
    plugins: str = "all"
    """Which plugins: `a,b` (only these), `all`, `none`, `-a` (all but a), `./file.py`."""
    model: str | None = None
    """Name or folder of the model to use."""
    docs: Path | None = None
    """Folder of documents to answer from."""
    persona: str | None = None
    """Name or file of the persona."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps …"""
    threads: int | None = Field(default=None, ge=1)
    """Processor threads; else as many as there are cores."""
    log: Literal["console", "json"] = "console"
    """Form of the log on stderr."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "warning"
    """Least level that is logged."""
    data_dir: Path | None = None
    """Where models, knowledge bases and sessions are kept, if not in the usual folder."""

    temperature: float | None = Field(default=None, ge=0, le=10)
    """Sampling temperature; 0 takes the likeliest token."""
    top_k: int | None = Field(default=None, ge=0)
    """Sample among the k likeliest tokens; 0 for all."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Sample among the likeliest tokens that together have this probability."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Leave out tokens less likely than this share of the likeliest."""
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=10)
    """Divide the logits of tokens that occurred; 1 for none."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, in tokens."""
    low_memory: bool | None = None
    """Keep one block's weights in memory at a time: slower, for machines that cannot hold the model."""
    cache_limit: int | None = Field(default=None, ge=1)
    """Most tokens that an attention keeps while it generates; it then sees the first few and the latest."""
    experts_per_token: int | None = Field(default=None, ge=1)
    """Most experts that a layer lets work on a token: quicker and less good than the number it was trained with."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of sampling, for answers that can be repeated."""

    plugins_config: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The tables `[plugin.<name>]` as they are; each plugin validates its own."""

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __init__(self, **command_line: Any) -> None:
        values, origins = _merge(_layers(type(self), command_line))
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _invalid(error, origins) from error
        self._origins = origins

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `__init__` merged: it reads the other places itself, to know each value's origin."""
        return (init_settings,)

    @field_validator("plugins", mode="before")
    @classmethod
    def _join(cls, value: object) -> object:
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return ",".join(value) or "none"
        return value

    @field_validator("lang", mode="before")
    @classmethod
    def _language(cls, value: object) -> object:
        """`pt`, `pt-BR`, `en_US.UTF-8` and the like."""
        if isinstance(value, str):
            return {"pt": "pt_BR", "en": "en"}.get(value[:2].lower(), value)
        return value

    def origins(self) -> dict[str, str]:
        """Where each field's value comes from, in the user's language; of plugin tables each as `plugin.<name>`."""
        fields = {name: self._origins.get(name, t("settings.default")) for name in type(self).model_fields}
        del fields["plugins_config"]
        return fields | {key: place for key, place in self._origins.items() if key.startswith("plugin.")}

    def apply(self) -> None:
        """Put what light modules and child processes read from the environment there: language, log, data folder."""
        for name in ("lang", "log", "log_level", "data_dir"):
            value = getattr(self, name)
            if value is not None:
                os.environ[PREFIX + name.upper()] = str(value)


def _layers(kind: type[Settings], command_line: Mapping[str, Any]) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """(origin of each key, values) of each place, the strongest first."""
    known = set(kind.model_fields)
    given = {key: value for key, value in command_line.items() if value is not None}
    place = t("settings.command_line")
    for key in given.keys() - known:
        raise _unknown(place, key, known)
    layers = [(dict.fromkeys(given, place), given), _environment(kind)]
    files = [project_file(), user_file()]
    layers += [_file(file, known) for file in files if file is not None and file.is_file()]
    return layers


def _merge(layers: Iterable[tuple[dict[str, str], dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    tables: dict[str, dict[str, Any]] = {}
    for places, layer in layers:
        for key, value in layer.items():
            if key == "plugins_config" and isinstance(value, dict):
                for name, table in value.items():
                    tables[name] = {**table, **tables.get(name, {})} if isinstance(table, dict) else table
                    origins.setdefault(f"plugin.{name}", places[key])
            elif key not in values:
                values[key] = value
                origins[key] = places[key]
    if tables:
        values.setdefault("plugins_config", tables)
    return values, origins


def _environment(kind: type[Settings]) -> tuple[dict[str, str], dict[str, Any]]:
    known = {PREFIX + name.upper(): name for name in kind.model_fields}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in known:
            # Other variables are someone else's, unless it is a slip of the pen: LUNA_TEMPERTURE.
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.9)
            if near and abs(len(variable) - len(near[0])) <= 2:
                place = t("settings.environment", name=variable)
                raise _unknown(place, variable, known)
    try:
        values = EnvSettingsSource(kind)()
    except SettingsError as error:
        name = PREFIX + "PLUGINS_CONFIG"
        raise ConfigError(
            t("settings.invalid", place=t("settings.environment", name=name), key=name, reason=str(error)),
            hint=t("settings.fix.hint"),
        ) from error
    return {key: t("settings.environment", name=PREFIX + key.upper()) for key in values}, values


def _file(file: Path, known: set[str]) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(t("settings.syntax", place=file, reason=str(error)), hint=t("settings.fix.hint")) from error
    except OSError as error:
        raise ConfigError(t("settings.unreadable", place=file, reason=reason_of(error))) from error
    tables = values.pop("plugin", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(t("settings.plugin_table", place=file), hint=t("settings.fix.hint"))
    for key in values:
        if key not in known - {"plugins_config"}:
            raise _unknown(str(file), key, (known - {"plugins_config"}) | {"plugin"})
    for key, value in values.items():
        if isinstance(value, str) and (key in _PATHS or (key in _NAMES_OR_PATHS and value.startswith("."))):
            values[key] = str(file.parent / Path(value).expanduser())
    if tables:
        values["plugins_config"] = tables
    return dict.fromkeys(values, str(file)), values


def _unknown(place: str, key: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(key, known, n=1)
    hint = t("settings.nearest", nearest=near[0]) if near else t("settings.known", known=", ".join(sorted(known)))
    return ConfigError(t("settings.unknown", place=place, key=key), hint=hint)


def _invalid(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        place = origins.get(str(problem["loc"][0]), t("settings.default")) if problem["loc"] else ""
        lines.append(t("settings.invalid", place=place, key=key, reason=problem_of(problem)))
    return ConfigError("\n".join(lines), hint=t("settings.fix.hint"))
