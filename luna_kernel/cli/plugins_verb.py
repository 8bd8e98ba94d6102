"""`luna plugins`: what is installed, what is on, what is broken and why; `luna plugins new` starts a plugin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Command, json_option, option, plugins_option  # first: it binds click's texts

import click  # isort: skip

from luna_kernel import LUNA_API, __version__
from luna_kernel.base.messages import catalogue, number_text

from .app import App

if TYPE_CHECKING:
    from luna_kernel.plugins import Plugins, PluginStatus

t = catalogue(__package__)


class _Group(Command, click.Group):
    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [t("metavar.options"), "[new]"]


@click.group(cls=_Group, invoke_without_command=True, help=lambda: t("plugins.help"))
@option("--requirements", is_flag=True, help=lambda: t("plugins.requirements"))
@option("--check", is_flag=True, help=lambda: t("plugins.check"))
@plugins_option
@json_option
@click.pass_context
def plugins(ctx: click.Context, *, requirements: bool, check: bool) -> int | None:
    """Print the table of plugins."""
    if ctx.invoked_subcommand is not None:
        return None
    app = ctx.ensure_object(App)
    loaded = app.plugins(strict=False)
    if requirements:
        for line in _requirements(loaded):
            app.write(line)
        return None
    complaints: dict[str, list[str]] = {}
    if check:
        from .check import check_plugins

        complaints = check_plugins(loaded)
    statuses = sorted(loaded.statuses.values(), key=lambda status: status.name)
    rows = [_row(loaded, status, complaints.get(status.name, [])) for status in statuses]
    if app.json:
        app.emit(
            {
                "kernel": __version__,
                "api": LUNA_API,
                "selection": str(loaded.selection),
                "plugins": [row for row in rows if row["name"] != "kernel"],
                "kernel_components": next(row["components"] for row in rows if row["name"] == "kernel"),
                "complaints": complaints,
            }
        )
    else:
        app.write(_table([row for row in rows if row["name"] != "kernel" or row["complaints"]]))
    if loaded.faults and not app.json:
        loaded.raise_faults()
    broken = any(status.state == "broken" for status in loaded.statuses.values())
    if loaded.faults:
        return loaded.faults[0].exit_code
    return 1 if check and (broken or complaints) else None


def _row(plugins: Plugins, status: PluginStatus, complaints: list[str]) -> dict[str, Any]:
    return {
        "name": status.name,
        "distribution": status.distribution,
        "version": status.version,
        "api": status.api,
        "state": status.state,
        "reason": status.reason or None,
        "requires": list(status.requires),
        "import_ms": None if status.import_ms is None else round(status.import_ms, 3),
        "heavy_imports": list(status.heavy),
        "components": [
            {"kind": c.kind, "name": c.name, "version": c.version, "help": c.help, "place": c.place}
            for c in plugins.registry.of_plugin(status.name)
        ],
        "complaints": complaints,
    }


def _requirements(plugins: Plugins) -> list[str]:
    """The lines of a requirements file that brings back what is installed, switched on or not."""
    installed = [s for s in plugins.statuses.values() if s.version != "-" and s.name != "kernel"]
    lines = {f"{status.distribution}=={status.version}" for status in installed}
    return [f"luna-kernel=={__version__}", *sorted(lines)]


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return t("plugins.none")
    head = [t(f"plugins.column.{name}") for name in ("name", "distribution", "version", "api", "state", "ms")]
    cells = [
        [
            row["name"],
            row["distribution"],
            row["version"],
            "-" if row["api"] is None else str(row["api"]),
            t(f"plugins.state.{row['state']}"),
            "-" if row["import_ms"] is None else number_text(row["import_ms"], 1),
        ]
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(head, widths, strict=True)).rstrip()]
    for row, line in zip(rows, cells, strict=True):
        lines.append("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        lines += [f"    {text}" for text in _notes(row)]
    return "\n".join(lines)


def _notes(row: dict[str, Any]) -> list[str]:
    """What is said under a plugin's line."""
    kinds: dict[str, list[str]] = {}
    for component in row["components"]:
        kinds.setdefault(component["kind"], []).append(component["name"])
    notes = [f"{kind}: {', '.join(names)}" for kind, names in kinds.items()] if row["name"] != "kernel" else []
    if row["requires"]:
        notes.append(t("plugins.requires", names=", ".join(row["requires"])))
    if row["heavy_imports"]:
        notes.append(t("plugins.heavy", names=", ".join(row["heavy_imports"])))
    if row["reason"]:
        notes.append(t("plugins.reason", reason=row["reason"]))
    return notes + [t("plugins.complaint", text=text) for text in row["complaints"]]


@plugins.command(cls=Command, help=lambda: t("plugins.new.help"))
@click.argument("name")
@option("--folder", type=click.Path(path_type=Path), default=None, help=lambda: t("plugins.new.folder"))
@click.pass_obj
def new(app: App, name: str, folder: Path | None) -> None:
    """Start a plugin: copy the template under its name."""
    from .new_plugin import make_plugin

    made = make_plugin(name, folder, installed=set(app.plugins(strict=False).statuses))
    if app.json:
        app.emit({"ok": True, "folder": str(made)})
    else:
        app.write(t("plugins.new.done", folder=made))
