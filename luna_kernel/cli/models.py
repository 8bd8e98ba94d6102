"""`luna models list|show|rm`: the models of the models folder, read without torch."""

from __future__ import annotations

import time
from typing import Any

from .options import Command, json_option, option  # first: it binds click's texts

import click  # isort: skip

from luna_kernel.base import durable, paths
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.base.storage import size_text
from luna_kernel.chat.models import ModelEntry, entry_of, find_model, list_models, model_path
from luna_kernel.plugins.manifest import Manifest, describe_places, percent

from .app import App
from .tables import table

t = catalogue(__package__)


class _Group(Command, click.Group):
    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["list|show|rm"]


@click.group(cls=_Group, help=lambda: t("models.help"))
def models() -> None:
    """See the catalogue: `models.help`."""


@models.command("list", cls=Command, help=lambda: t("models.list.help"))
@json_option
@click.pass_obj
def list_(app: App) -> None:
    """One line per model."""
    entries = list_models()
    if app.json:
        app.emit({"folder": str(paths.models_dir()), "models": [entry.to_json() for entry in entries]})
        return
    if not entries:
        app.say(t("models.list.none", folder=paths.models_dir()))
        return
    head = [t(f"models.column.{name}") for name in ("name", "preset", "plugins", "size", "changed", "state")]
    app.write(table([head, *[_row(entry) for entry in entries]]))


def _row(entry: ModelEntry) -> list[str]:
    if entry.manifest is None:
        return [entry.name, "-", "-", size_text(entry.bytes), "-", t("models.state.broken", reason=entry.fault)]
    state = t("models.state.trained" if entry.manifest.training else "models.state.untrained")
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.modified))
    needed = ", ".join(entry.manifest.plugins_needed()) or "-"
    return [
        entry.name, str(entry.manifest.blueprint.get("preset") or "-"), needed, size_text(entry.bytes), changed, state,
    ]  # fmt: skip


@models.command("show", cls=Command, help=lambda: t("models.show.help"))
@click.argument("name")
@json_option
@click.pass_obj
def show(app: App, name: str) -> None:
    """The manifest of one model."""
    folder = find_model(name)
    manifest = Manifest.read(folder)
    if app.json:
        app.emit({"folder": str(folder), **manifest.to_json()})
        return
    entry = entry_of(name, folder)
    lines = [
        (t("models.show.folder"), str(folder)),
        (t("models.column.size"), size_text(entry.bytes)),
        (t("models.show.kernel"), manifest.kernel),
        (t("models.column.preset"), str(manifest.blueprint.get("preset") or "-")),
        (t("models.show.dims"), _flat(manifest.blueprint.get("dims"))),
        (t("models.column.plugins"), ", ".join(manifest.plugins_needed()) or "-"),
        (t("models.show.training"), _flat(_summary(manifest.training)) or t("models.state.untrained")),
        (t("models.show.chat"), _flat(manifest.chat) or "-"),
    ]
    app.write(table([list(line) for line in lines]))
    head = [t(f"models.column.{key}") for key in ("component", "version", "package", "places", "share")]
    rows = [
        [
            f"{record.kind} {record.name}",
            str(record.version),
            f"{record.distribution} {record.distribution_version}",
            describe_places(record.places) or "-",
            percent(record.weight_share),
        ]
        for record in manifest.components
    ]
    app.write("\n" + table([head, *rows]))


def _summary(training: Any) -> dict[str, Any]:
    """Facts of a training that fit in a line: plain values, the two measurements that matter, how often it grew."""
    if not isinstance(training, dict):
        return {}
    facts = {key: value for key, value in training.items() if not isinstance(value, dict | list)}
    measured = training.get("metrics")
    if isinstance(measured, dict):
        facts |= {key: f"{measured[key]:.4g}" for key in ("loss/main", "valid/bits_per_byte") if key in measured}
    growths = training.get("growths")
    return facts | ({"growths": len(growths)} if growths else {})


def _flat(data: Any) -> str:
    """A mapping as `a=1, b=2`."""
    if not isinstance(data, dict):
        return ""
    return ", ".join(f"{key}={value}" for key, value in data.items())


@models.command("rm", cls=Command, help=lambda: t("models.rm.help"))
@click.argument("name")
@option("--yes", is_flag=True, help=lambda: t("models.rm.yes"))
@json_option
@click.pass_obj
def rm(app: App, name: str, *, yes: bool) -> int:
    """Remove one model of the models folder, after asking."""
    folder = model_path(name)
    if folder.parent != paths.models_dir():
        raise UsageError(t("models.rm.outside", folder=folder), hint=t("models.rm.outside.hint"))
    if not folder.is_dir():
        folder = find_model(name)  # the demo model's; else raises, with what there is
    size = size_text(entry_of(name, folder).bytes)
    if not (yes or app.confirm(t("models.rm.ask", name=name, folder=folder, size=size))):
        app.say(t("models.rm.kept", name=name))
        return 1
    durable.remove_folder(folder)
    if app.json:
        app.emit({"removed": name, "folder": str(folder)})
    else:
        app.say(t("models.rm.done", name=name, size=size))
    return 0
