"""Training configurations from files: Luna's own (YAML, TOML, JSON), and the keys of the MoC seed's example.

A file with a `model` mapping (`d_model`, `n_layers`, …) or with one of the seed's other keys is read as the seed's;
which of its keys is which of Luna's stands in `seed_keys.json`, so that the kernel names no plugin. Every other file
has the fields of `TrainConfig`. An unknown key is an error with its line and the nearest right key.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from luna_kernel.base import integrity
from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.reasons import reason_of
from luna_kernel.plugins.registry import Registry, suggest, validate
from luna_kernel.train.config import TrainConfig

t = catalogue(__package__)

MAX_BYTES = 1 << 20
SEED_ONLY = ("data_dir", "out_dir", "gradient_accumulation_steps", "wandb_project", "wandb_run_name")


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration and what its reader should be told about it."""

    config: TrainConfig
    remarks: tuple[str, ...] = ()


def load_config(path: str | Path, registry: Registry, overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    """Read a training configuration.

    Args:
        path: `.yaml`, `.yml`, `.toml` or `.json`. Relative paths in it are relative to the current folder.
        registry: the components that are there.
        overrides: fields of `TrainConfig` that win over the file's; None counts as not given.

    Raises:
        UsageError: no such file, not readable.
        ConfigError: an unknown key, with line and nearest right one, or a wrong value.
    """
    path = Path(path)
    text, data = _read(path)
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    if _is_seed(data):
        fields, remarks = _Seed(path, text, registry).translate(data)
    else:
        fields, remarks = dict(data), []
        _refuse_unknown(path, text, fields, TrainConfig.model_fields)
    config = validate(TrainConfig, {**fields, **given}, where=str(path))
    assert isinstance(config, TrainConfig)
    return LoadedConfig(config, tuple(remarks))


def _is_seed(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("model"), Mapping) or any(key in data for key in SEED_ONLY)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(t("config.missing", path=path)) from None
    except OSError as error:
        raise UsageError(t("config.unreadable", path=path, reason=reason_of(error))) from error
    if len(raw) > MAX_BYTES:
        raise UsageError(t("config.too_large", path=path))
    try:
        text = raw.decode("utf-8-sig")
        data = _parse(path, text)
    except UsageError:
        raise
    except Exception as error:  # each parser has exceptions of its own
        raise ConfigError(t("config.syntax", path=path, reason=" ".join(str(error).split()))) from error
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ConfigError(t("config.no_mapping", path=path))
    return text, data


def _parse(path: Path, text: str) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".json":
        return integrity.read_json(path, max_bytes=MAX_BYTES)
    if suffix == ".toml":
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        return tomllib.loads(text)
    if suffix in (".yaml", ".yml"):
        import yaml

        _refuse_twice(path, yaml.compose(text, Loader=yaml.SafeLoader))
        return _numbers(yaml.safe_load(text))
    raise UsageError(t("config.format", path=path))


def _refuse_twice(path: Path, node: Any) -> None:
    """YAML lets a key occur twice and takes the last."""
    pairs = node.value if hasattr(node, "value") and isinstance(node.value, list) else []
    seen: set[str] = set()
    for pair in pairs:
        if isinstance(pair, tuple):
            key, value = pair
            if str(key.value) in seen:
                raise ConfigError(t("config.twice", path=path, line=key.start_mark.line + 1, key=key.value))
            seen.add(str(key.value))
            _refuse_twice(path, value)
        else:
            _refuse_twice(path, pair)


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads `3e-4`, without a point, as text."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def _line_of(text: str, key: str) -> int:
    match = re.search(rf"^[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*[:=]", text, re.MULTILINE)
    return text.count("\n", 0, match.start()) + 1 if match else 1


def _refuse(path: Path, text: str, key: str, known: Any) -> NoReturn:
    line = _line_of(text, key)
    message = t("config.unknown_key", path=path, line=line, key=key) + suggest(key, known)
    raise ConfigError(message, hint=t("config.known_keys", keys=", ".join(sorted(known))))


def _refuse_unknown(path: Path, text: str, data: Mapping[str, Any], known: Any) -> None:
    for key in data:
        if key not in known:
            _refuse(path, text, key, known)


@dataclass
class _Seed:
    """The seed's keys, translated."""

    path: Path
    text: str
    registry: Registry
    keys: dict[str, Any] = field(
        default_factory=lambda: json.loads((resources.files(__package__) / "seed_keys.json").read_text("utf-8"))
    )

    def translate(self, data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Fields of `TrainConfig`, and remarks."""
        keys, fields, remarks = self.keys, {}, []
        parts = ("top", "tracker", "optimizer", "schedule")
        _refuse_unknown(self.path, self.text, data, {"model", *(key for part in parts for key in keys[part])})
        for key, value in data.items():
            if key in keys["top"]:
                fields[keys["top"][key]] = value
        for part in ("optimizer", "schedule"):
            found = {name: data[key] for key, name in keys[part].items() if key in data}
            if found:
                default = TrainConfig.model_fields[part].get_default(call_default_factory=True)
                fields[part] = {**default, **found}
        remarks += self._trackers(data, fields)
        model = data.get("model", {})
        if isinstance(model, Mapping):
            fields.update(self._model(model))
        else:
            fields["model"] = model
        return fields, remarks

    def _trackers(self, data: Mapping[str, Any], fields: dict[str, Any]) -> list[str]:
        """A tracker that is installed gets its keys; one that is not is said, never passed over."""
        remarks: list[str] = []
        nodes: dict[str, dict[str, Any]] = {}
        for key, name in self.keys["tracker"].items():
            if key in data:
                nodes.setdefault(name, {"name": name})[self.keys["tracker_fields"][key]] = data[key]
        for name, node in nodes.items():
            if self.registry.find("tracker", name) is not None:
                fields["trackers"] = (*fields.get("trackers", ()), node)
            else:
                used = ", ".join(key for key in self.keys["tracker"] if key in data)
                remarks.append(t("config.no_tracker", keys=used, tracker=name))
        return remarks

    def _model(self, model: Mapping[str, Any]) -> dict[str, Any]:
        keys = self.keys
        known = {*keys["dims"], keys["vocab_size"], *(key for item in keys["components"] for key in item["fields"])}
        _refuse_unknown(self.path, self.text, model, known)
        dims = {name: model[key] for key, name in keys["dims"].items() if key in model}
        if {"d_model", "num_heads"} <= set(dims):
            self._check_heads(dims)
        new: dict[str, Any] = {"dims": dims, "preset": "tiny"}
        for item in keys["components"]:
            given = {name: model[key] for key, name in item["fields"].items() if key in model}
            if item["when"] in model:
                name = item["component"]
                new["components"] = [*new.get("components", []), name]
                new.setdefault("configs", {})[name] = {**item["set"], **given}
                new.setdefault("place", {})[name] = item["place"]
            elif given:
                key = next(key for key in item["fields"] if key in model)
                line = _line_of(self.text, key)
                raise ConfigError(t("config.needs_key", path=self.path, line=line, key=key, other=item["when"]))
        fields: dict[str, Any] = {"new_model": new}
        if keys["vocab_size"] in model:
            fields["vocab_size"] = model[keys["vocab_size"]]
        if keys["sequence_length"] in model:
            fields["sequence_length"] = model[keys["sequence_length"]]
        return fields

    def _check_heads(self, dims: dict[str, Any]) -> None:
        """The seed's dimensions say the rest of the sizes: head size, one key per head unless told, a gated width."""
        width, heads = dims["d_model"], dims["num_heads"]
        if not (isinstance(width, int) and isinstance(heads, int) and heads > 0 and width % heads == 0):
            line = _line_of(self.text, "n_heads")
            raise ConfigError(t("config.heads", path=self.path, line=line, width=width, heads=heads))
        dims.setdefault("num_kv_heads", heads)
        dims["head_dim"] = width // heads
        dims["ffn_dim"] = -(-(8 * width) // (3 * 64)) * 64
