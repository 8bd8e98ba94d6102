"""Switch the selected plugins on, with those that they require.

There is no global plugin manager. `load_plugins(selection)` returns a `Plugins` object that is passed on; a worker
process rebuilds it from `str(plugins.selection)`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from luna_kernel import __version__ as kernel_version
from luna_kernel.base.errors import LunaError, PluginError, UsageError
from luna_kernel.base.messages import catalogue

from .discovery import FoundPlugin, discover
from .host import KERNEL, Plugins, PluginStatus
from .preference import preferred_selection
from .registry import suggest
from .selection import Selection

t = catalogue(__package__)


def load_plugins(selection: Selection | str | None = None, *, strict: bool = True) -> Plugins:
    """Find the installed plugins and switch on the chosen ones.

    Args:
        selection: a `Selection`, its text, or None for the preferred one: `LUNA_PLUGINS`, else `luna.toml`, else
            the user's settings, else `all`.
        strict: raise when a named plugin cannot be used. With False the fault is kept in `plugins.faults`, for
            commands that always work.

    Raises:
        UsageError: the selection's text does not parse; a named plugin is not installed.
        PluginError: a named plugin, or one that it requires, is broken. One that is merely installed never raises.
    """
    if selection is None:
        selection = preferred_selection()
    if isinstance(selection, str):
        selection = Selection.parse(selection)
    plugins = _Loading(selection, discover()).run()
    if strict:
        plugins.raise_faults()
    return plugins


class _Loading:
    """One walk from a selection to the plugins that are on."""

    def __init__(self, selection: Selection, found: Mapping[str, FoundPlugin]) -> None:
        self.selection = selection
        self.found = found
        self.plugins = Plugins(selection)
        self.needed_by: dict[str, str] = {}
        """Plugins that must work, to the one that asked for them, or "" when the user did."""

    def run(self) -> Plugins:
        kernel = self.plugins.switch_on(
            FoundPlugin(KERNEL, "luna_kernel.builtin", "luna-kernel", kernel_version),
            lambda: importlib.import_module("luna_kernel.builtin"),
        )
        if kernel.state == "broken":
            raise LunaError(kernel.reason)
        self._switch_on_all(self._chosen())
        for path in self.selection.files:
            self._switch_on_file(path)
        self._drop_dependents()
        for name, asker in self.needed_by.items():
            self._note_fault(name, asker)
        for name, point in self.found.items():
            self.plugins.statuses.setdefault(name, PluginStatus(name, point.distribution, point.version))
        return self.plugins

    def _chosen(self) -> list[str]:
        """The plugins to switch on, named ones first: of two that clash, the named one stays."""
        for name in (*self.selection.named, *self.selection.without):
            if name not in self.found:
                self.plugins.faults.append(_unknown(name, self.found))
        named = [name for name in self.selection.named if name in self.found]
        self.needed_by.update((name, "") for name in named)
        others = [name for name in self.found if self.selection.every and name not in named]
        return [name for name in named + others if name not in self.selection.without]

    def _switch_on_all(self, chosen: list[str]) -> None:
        waiting = list(chosen)
        while waiting:
            name = waiting.pop(0)
            if name in self.plugins.statuses:
                continue
            target = self.found[name].target.partition(":")[0]
            status = self.plugins.switch_on(self.found[name], lambda target=target: importlib.import_module(target))  # type: ignore[misc]
            if status.state == "on":
                waiting = self._requirements(status) + waiting

    def _requirements(self, status: PluginStatus) -> list[str]:
        """What must be switched on for `status`; when that is impossible, it is switched off."""
        for need in status.requires:
            if need in self.selection.without:
                self.plugins.switch_off(status, t("plugin.requires_off", name=status.name, need=need), state="off")
                return []
            if need not in self.found:
                from .known import known_plugins  # only what is missing needs it

                known = known_plugins().get(need)
                install = f": pip install {known.distribution}" if known else ""
                reason = t("plugin.requires_missing", name=status.name, need=need, install=install)
                self.plugins.switch_off(status, reason)
                return []
        if status.name in self.needed_by:
            for need in status.requires:
                self.needed_by.setdefault(need, status.name)
        return list(status.requires)

    def _switch_on_file(self, path: str) -> None:
        file = Path(path)
        if not file.is_file():
            self.plugins.faults.append(UsageError(t("plugin.no_file", path=path), hint=t("selection.hint")))
            return
        other = self.plugins.statuses.get(file.stem)
        if other is not None or file.stem in self.found:
            rival = other.distribution if other else self.found[file.stem].distribution
            self.plugins.faults.append(
                PluginError(t("plugin.file_rival", path=path, name=file.stem, distribution=rival))
            )
            return
        module_name = f"luna_local_{file.stem}"
        status = self.plugins.switch_on(
            FoundPlugin(file.stem, module_name, path, "-"), lambda: _import_file(module_name, file)
        )
        self.needed_by[file.stem] = ""
        if status.state == "on":
            self._switch_on_all(self._requirements(status))

    def _drop_dependents(self) -> None:
        """A plugin whose requirement turned out broken cannot work either; say which one is to blame."""
        statuses = self.plugins.statuses
        changed = True
        while changed:
            changed = False
            for status in list(statuses.values()):
                blame = (
                    next((need for need in status.requires if statuses[need].state != "on"), None)
                    if status.state == "on"
                    else None
                )
                if blame is not None:
                    self.plugins.switch_off(status, t("plugin.requires_broken", need=blame))
                    changed = True

    def _note_fault(self, name: str, asker: str) -> None:
        status = self.plugins.statuses[name]
        if status.state == "on":
            return
        text = t("plugin.named_broken", name=name, distribution=status.distribution, reason=status.reason)
        if asker:
            text += " " + t("plugin.required_by", asker=asker)
        self.plugins.faults.append(PluginError(text, hint=t("plugin.named_broken.hint", name=name)))


def _unknown(name: str, found: Mapping[str, FoundPlugin]) -> UsageError:
    from .known import known_plugins

    known = known_plugins().get(name)
    lines = [t("plugin.installed", names=", ".join(found) or "-")]
    if known is not None:
        lines.insert(0, t("plugin.known", name=name, distribution=known.distribution))
    return UsageError(t("plugin.unknown", name=name) + suggest(name, list(found)), hint="\n".join(lines))


def _import_file(module_name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that `add(..., f"{__name__}:Class")` can be imported later
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
