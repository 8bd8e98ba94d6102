"""`luna models list|show|rm`: the models of the models folder, read without torch."""

from __future__ import annotations

import time
from pathlib import Path

import click

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

from .app import App
from .options import command, debug_option, group, json_option, option

t = catalogue(__package__)


@group(help=lambda: t("verb.models.help"))
def models() -> None:
    """See the catalogue: `verb.models.help`."""


@models.command(cls=command.cls, name="list", help=lambda: t("models.list.help"))  # type: ignore[attr-defined]
@json_option
@debug_option
@click.pass_obj
def list_(app: App) -> None:
    """One line per model."""
