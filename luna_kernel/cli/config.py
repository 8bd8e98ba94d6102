"""`luna config show`: every setting, its value and where it comes from."""

from __future__ import annotations

import re
from typing import Any

from .options import Command, json_option, option  # first: it binds click's texts

import click  # isort: skip

from luna_kernel.base import paths
from luna_kernel.base.messages import catalogue

from .app import App
from .tables import table

t = catalogue(__package__)


class _Group(Command, click.Group):
    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["show"]


@click.group(cls=_Group, help=lambda: t("config.help"))
def config() -> None:
    """See the catalogue: `config.help`."""


@config.command("show", cls=Command, help=lambda: t("config.show.help"))
@option("--origin", is_flag=True, help=lambda: t("config.origin"))
@json_option
@click.pass_obj
def show(app: App, *, origin: bool) -> None:
    """Print the settings."""
    from luna_kernel.base.settings import Settings

    settings = Settings(plugins=app.selection)
    values: dict[str, Any] = settings.model_dump(mode="json", exclude={"plugins_config"})
    for name, fields in settings.plugins_config.items():
        values[f"plugin.{name}"] = _without_passwords(fields)
    origins = settings.origins()
    folders = {
        "config": str(paths.config_dir()),
        "data": str(paths.data_dir()),
        "state": str(paths.state_dir()),
        "cache": str(paths.cache_dir()),
    }
    if app.json:
        app.emit({"settings": values, "folders": folders, **({"origins": origins} if origin else {})})
        return
    rows = []
    for name, value in values.items():
        row = [name, "-" if value is None else str(value)]
        rows.append([*row, origins[name]] if origin else row)
    app.write(table(rows))
    app.write("\n" + table([[t(f"config.folder.{name}"), folder] for name, folder in folders.items()]))


_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]+(?=@)|((?:password|token|api_key)\s*=\s*)(?:'(?:[^'\\]|\\.)*'|\S+)")
_SECRET = re.compile(r"password|token|api_key|secret")


def _without_passwords(value: Any) -> Any:
    """A plugin's settings with dots for what is secret in them: in connection strings, and under telling names."""
    if isinstance(value, dict):
        return {
            key: "…" if _SECRET.search(str(key)) and isinstance(item, str) else _without_passwords(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_passwords(item) for item in value]
    if isinstance(value, str):
        return _PASSWORD.sub(lambda match: f"{match[1] or match[2]}…", value)
    return value
