"""`luna doctor`: what this machine and this installation are, and what is wrong with them. Imports no torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import command, json_option, plugins_option  # first: it binds click's texts

import click  # isort: skip

from luna_kernel import __version__
from luna_kernel.base import machine, paths
from luna_kernel.base.messages import catalogue
from luna_kernel.base.settings_files import project_file, user_file

from .app import App

if TYPE_CHECKING:
    from luna_kernel.plugins import Plugins

t = catalogue(__package__)

LITTLE_MEMORY = 1 << 30
LITTLE_DISK = 1 << 30


@command(help=lambda: t("doctor.help"))
@plugins_option
@json_option
@click.pass_obj
def doctor(app: App) -> int | None:
    """Print facts, then faults; exit status 1 if there are any."""
    plugins = app.plugins(strict=False)
    facts = examine(plugins)
    faults = find_faults(facts, plugins)
    if app.json:
        app.emit({"ok": not faults, **facts, "faults": faults})
    else:
        app.write("\n".join(_lines(facts)))
        app.write("\n".join(["", *(t("doctor.fault", text=text) for text in faults)] if faults else [t("doctor.good")]))
    return 1 if faults else None


def examine(plugins: Plugins) -> dict[str, Any]:
    """The facts, as `--json` prints them."""
    return {
        "luna": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "torch": _version("torch"),
        "cpu": machine.cpu(),
        "memory": machine.memory(),
        "folders": {name: _folder(getattr(paths, f"{name}_dir")()) for name in ("config", "data", "state", "cache")},
        "settings": [str(file) for file in (project_file(), user_file()) if file is not None and file.is_file()],
        "selection": str(plugins.selection),
        "plugins": {
            status.name: {"version": status.version, "state": status.state, "reason": status.reason or None}
            for status in plugins.statuses.values()
            if status.name != "kernel"
        },
        "reports": plugins.tell_by_plugin("luna_doctor"),
    }


def find_faults(facts: dict[str, Any], plugins: Plugins) -> list[str]:
    """What is wrong, one sentence each."""
    faults = [t("doctor.no_torch")] if facts["torch"] is None else []
    available = facts["memory"]["available"]
    if available is not None and available < LITTLE_MEMORY:
        faults.append(t("doctor.little_memory", size=_size(available)))
    for name, folder in facts["folders"].items():
        if not folder["writable"]:
            faults.append(t("doctor.not_writable", name=name, path=folder["path"]))
        elif folder["free"] is not None and folder["free"] < LITTLE_DISK:
            faults.append(t("doctor.little_disk", name=name, path=folder["path"], size=_size(folder["free"])))
    faults += plugins.remarks
    # A plugin that was named and is broken has its remark already; one that is not installed has none.
    faults += [fault.text for fault in plugins.faults if not any(text in fault.text for text in _reasons(plugins))]
    for name, report in facts["reports"].items():
        faults += [f"{name}: {text}" for text in report.get("faults", [])]
    return faults


def _reasons(plugins: Plugins) -> list[str]:
    return [status.reason for status in plugins.statuses.values() if status.reason]


def _version(distribution: str) -> str | None:
    import importlib.metadata  # 40 ms

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder(path: Path) -> dict[str, Any]:
    """Where it is (or would be made), whether one may write there, and how much is free."""
    there = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    try:
        free: int | None = shutil.disk_usage(there).free
    except OSError:
        free = None
    return {"path": str(path), "exists": path.is_dir(), "writable": writable, "free": free}


def _size(size: int | None) -> str:
    from luna_kernel.base.storage import size_text

    return "?" if size is None else size_text(size)


def _lines(facts: dict[str, Any]) -> list[str]:
    cpu, memory = facts["cpu"], facts["memory"]
    plugins = [f"{name} {p['version']} ({t('plugins.state.' + p['state'])})" for name, p in facts["plugins"].items()]
    rows = [
        ("luna", facts["luna"]),
        ("python", f"{facts['python']} ({facts['executable']})"),
        ("system", facts["system"]),
        ("torch", facts["torch"] or "-"),
        ("cpu", t("doctor.cpu_value", model=cpu["model"], cores=cpu["cores"], flags=" ".join(cpu["flags"]) or "-")),
        (
            "memory",
            t("doctor.memory_value", total=_size(memory["total"]), available=_size(memory["available"])),
        ),
        *(
            (f"folder_{name}", t("doctor.folder_value", path=folder["path"], free=_size(folder["free"])))
            for name, folder in facts["folders"].items()
        ),
        ("settings", ", ".join(facts["settings"]) or "-"),
        ("selection", facts["selection"]),
        ("plugins", ", ".join(plugins) or "-"),
    ]
    labels = [t(f"doctor.{name}") for name, _ in rows]
    width = max(map(len, labels))
    lines = [f"{label.ljust(width)}  {value}" for label, (_, value) in zip(labels, rows, strict=True)]
    for name, report in facts["reports"].items():
        lines += [f"{name}: {key} = {value}" for key, value in report.items() if key != "faults"]
    return lines
