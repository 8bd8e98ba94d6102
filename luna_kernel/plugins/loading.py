"""Switch plugins on: import their light modules, check them, collect their components, call their hooks.

There is no global plugin manager. `load_plugins(selection)` returns a `Plugins` object that is passed on; a worker
process rebuilds it from `str(plugins.selection)`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from luna_kernel import LUNA_API
from luna_kernel import __version__ as kernel_version
from luna_kernel.base.errors import LunaError, PluginError, UsageError
from luna_kernel.base.messages import catalogue

from . import hookspecs
from .discovery import FoundPlugin, discover
from .kinds import HOOK_KINDS
from .known import known_plugins
from .registry import Component, Registry, suggest
from .selection import Selection

t = catalogue(__package__)

KERNEL = FoundPlugin("kernel", "luna_kernel.builtin", "luna-kernel", kernel_version)


@dataclass
class PluginStatus:
    """What `luna plugins` shows of one plugin."""

    name: str
    distribution: str
    version: str
    state: str = "off"
    """`on`, `off` or `broken`."""
    reason: str = ""
    api: int | None = None
    requires: tuple[str, ...] = ()
    import_ms: float | None = None
    module: ModuleType | None = field(default=None, repr=False)


class Plugins:
    """The plugins of one run: what is on, its components, and how to call its hooks."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.registry = Registry()
        self.statuses: dict[str, PluginStatus] = {}
        self._manager = pluggy.PluginManager("luna")
        self._manager.add_hookspecs(hookspecs)
        self._trace = os.environ.get("LUNA_TRACE_PLUGINS", "") not in ("", "0")

    @property
    def names(self) -> list[str]:
        """Names of the plugins that are on, the kernel not counted."""
        return [s.name for s in self.statuses.values() if s.state == "on" and s.name != KERNEL.name]

    @property
    def remarks(self) -> list[str]:
        """One line per plugin that is installed but broken; the command line prints them on stderr."""
        return [
            t("plugin.broken_remark", name=s.name, distribution=s.distribution, reason=s.reason)
            for s in self.statuses.values()
            if s.state == "broken"
        ]

    def tell(self, hook: str, **arguments: Any) -> list[Any]:
        """Call a telling hook on every plugin; returns the answers that are not None.

        A failure is logged with the plugin's name and the others are still called, unless the plugin declared
        itself critical (`LUNA_CRITICAL = True`); then it is raised as a `PluginError`.
        """
        answers = []
        for impl in reversed(self._impls(hook)):  # pluggy keeps the first to be called last in its list
            try:
                answer = self._call(impl, hook, arguments)
            except Exception as error:
                text = t("plugin.hook_failed", plugin=impl.plugin_name, hook=hook, reason=_reason(error))
                if getattr(impl.plugin, "LUNA_CRITICAL", False):
                    raise PluginError(text) from error
                from luna_kernel.base.logging import get_logger

                get_logger("luna.plugins").warning("hook_failed", plugin=impl.plugin_name, hook=hook, reason=text)
                continue
            if answer is not None:
                answers.append(answer)
        return answers

    def first(self, hook: str, **arguments: Any) -> Any:
        """The first answer of a telling hook that is not None, or None."""
        answers = self.tell(hook, **arguments)
        return answers[0] if answers else None

    # --- switching on --------------------------------------------------------------------------------------------

    def switch_on(self, plugin: FoundPlugin, load: Callable[[], ModuleType]) -> PluginStatus:
        """Import, check and register one plugin; on any fault its status is `broken` and it leaves no trace."""
        status = PluginStatus(plugin.name, plugin.distribution, plugin.version)
        self.statuses[plugin.name] = status
        begin = time.perf_counter()
        try:
            if plugin.rivals:
                both = ", ".join([plugin.distribution, *plugin.rivals])
                raise PluginError(t("plugin.rivals", name=plugin.name, distributions=both))
            status.module = load()
            status.import_ms = (time.perf_counter() - begin) * 1000
            self._check_api(plugin, status)
            status.requires = tuple(getattr(status.module, "LUNA_REQUIRES", ()))
            self._manager.register(status.module, plugin.name)
            self._manager.check_pending()
            self._check_marks(status.module)
            self._collect(plugin)
        except (Exception, SystemExit) as error:  # SystemExit: a plugin that exits at import must not end Luna
            status.state, status.reason = "broken", _reason(error)
            self._withdraw(plugin.name)
        else:
            status.state = "on"
        return status

    def switch_off(self, status: PluginStatus, reason: str) -> None:
        """Mark a plugin broken after it was on, and take back what it added."""
        status.state, status.reason = "broken", reason
        self._withdraw(status.name)

    def _withdraw(self, name: str) -> None:
        self.registry.remove_plugin(name)
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)

    def _check_api(self, plugin: FoundPlugin, status: PluginStatus) -> None:
        api = getattr(status.module, "LUNA_API", None)
        if not isinstance(api, int) or isinstance(api, bool):
            raise PluginError(t("plugin.no_api", expected=LUNA_API))
        status.api = api
        if api != LUNA_API:
            key = "plugin.api_newer" if api > LUNA_API else "plugin.api_older"
            raise PluginError(t(key, api=api, expected=LUNA_API, distribution=plugin.distribution))

    def _check_marks(self, module: ModuleType) -> None:
        """A hook's name without `@hookimpl` would never be called: say so instead of saying nothing."""
        for name, value in vars(module).items():
            if name.startswith("luna_") and callable(value) and not hasattr(value, "luna_impl"):
                raise PluginError(t("plugin.unmarked_hook", hook=name))
        for impl in self._impls_of(module):
            if impl.hookwrapper or impl.wrapper:
                raise PluginError(t("plugin.wrapper", hook=impl.function.__name__))

    def _collect(self, plugin: FoundPlugin) -> None:
        for hook, kinds in HOOK_KINDS.items():
            for impl in self._impls(hook):
                if impl.plugin_name == plugin.name:
                    self._call(impl, hook, {"add": self._adder(plugin, hook, kinds)})

    def _adder(self, plugin: FoundPlugin, hook: str, kinds: tuple[str, ...]) -> Callable[..., None]:
        def add(
            kind: str,
            name: str,
            target: str,
            *,
            config: str | None = None,
            version: int = 1,
            help: str = "",  # noqa: A002
            place: str | None = None,
            default: Mapping[str, Any] | None = None,
        ) -> None:
            if kind not in kinds:
                raise PluginError(t("plugin.wrong_kind", hook=hook, kind=kind, kinds=", ".join(kinds)))
            for value in (target, config):
                if value is not None and value.count(":") != 1:
                    raise PluginError(t("plugin.bad_target", kind=kind, name=name, target=value))
            self.registry.add(
                Component(
                    kind=kind,
                    name=name,
                    target=target,
                    plugin=plugin.name,
                    distribution=plugin.distribution,
                    distribution_version=plugin.version,
                    config=config,
                    version=version,
                    help=help,
                    place=place,
                    default=dict(default or {}),
                )
            )

        return add

    # --- calling -------------------------------------------------------------------------------------------------

    def _impls(self, hook: str) -> list[pluggy.HookImpl]:
        return list(getattr(self._manager.hook, hook).get_hookimpls())

    def _impls_of(self, module: ModuleType) -> list[pluggy.HookImpl]:
        callers = self._manager.get_hookcallers(module) or []
        return [impl for caller in callers for impl in caller.get_hookimpls() if impl.plugin is module]

    def _call(self, impl: pluggy.HookImpl, hook: str, arguments: Mapping[str, Any]) -> Any:
        begin = time.perf_counter()
        try:
            return impl.function(*[arguments[name] for name in impl.argnames])
        finally:
            if self._trace:
                ms = (time.perf_counter() - begin) * 1000
                print(f"[luna plugins] {impl.plugin_name:<16} {hook:<28} {ms:8.3f} ms", file=sys.stderr)


def _reason(error: BaseException) -> str:
    if isinstance(error, LunaError):
        return error.text
    if isinstance(error, pluggy.PluginValidationError):
        return str(error).replace("\n", " ")
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        text += f" ({error.filename}:{error.lineno})"
    return text.splitlines()[0] if text.strip() else type(error).__name__


def _load_file(path: str) -> tuple[FoundPlugin, Callable[[], ModuleType]]:
    file = Path(path)
    if not file.is_file():
        raise UsageError(t("plugin.no_file", path=path), hint=t("selection.hint"))
    name = file.stem
    module_name = f"luna_local_{name}"

    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location(module_name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # so that `add(..., f"{__name__}:Class")` can be imported later
        spec.loader.exec_module(module)
        return module

    return FoundPlugin(name, module_name, f"{path}", "-"), load


def _unknown(name: str, found: Mapping[str, FoundPlugin]) -> UsageError:
    known = known_plugins().get(name)
    lines = [t("plugin.installed", names=", ".join(found) or "-")]
    if known is not None:
        lines.insert(0, t("plugin.known", name=name, distribution=known.distribution))
    text = t("plugin.unknown", name=name) + suggest(name, list(found))
    return UsageError(text, hint="\n".join(lines))


def load_plugins(selection: Selection | str | None = None) -> Plugins:
    """Find the installed plugins and switch on the chosen ones.

    Args:
        selection: a `Selection`, its text, or None for `LUNA_PLUGINS`, else `all`.

    Raises:
        UsageError: a named plugin is not installed.
        PluginError: a named plugin, or one that it requires, is broken. One that is merely installed never raises.
    """
    if selection is None:
        selection = os.environ.get("LUNA_PLUGINS") or "all"
    if isinstance(selection, str):
        selection = Selection.parse(selection)
    found = discover()
    for name in (*selection.named, *selection.without):
        if name not in found:
            raise _unknown(name, found)
    plugins = Plugins(selection)
    kernel = plugins.switch_on(KERNEL, lambda: importlib.import_module(KERNEL.target))
    if kernel.state == "broken":
        raise LunaError(kernel.reason)

    waiting = [(name, "") for name in selection.named]
    if selection.every:
        waiting += [(name, "") for name in found if name not in selection.named]
    waiting = [(name, why) for name, why in waiting if name not in selection.without]
    required: set[str] = set(selection.named)
    while waiting:
        name, asker = waiting.pop(0)
        if name in plugins.statuses:
            continue
        point = found[name]
        status = plugins.switch_on(point, lambda point=point: importlib.import_module(point.target))  # type: ignore[misc]
        if status.state == "broken" and name in required:
            asked = t("plugin.required_by", asker=asker) if asker else ""
            text = t("plugin.named_broken", name=name, distribution=point.distribution, reason=status.reason)
            raise PluginError(f"{text} {asked}".rstrip(), hint=t("plugin.named_broken.hint", name=name))
        for need in status.requires:
            reason = _requirement_fault(name, need, found, selection)
            if reason is not None:
                if name in required:
                    raise PluginError(reason)
                plugins.switch_off(status, reason)
            elif need not in plugins.statuses:
                if name in required:
                    required.add(need)
                waiting.insert(0, (need, name))
    _drop_dependents_of_broken(plugins)

    for path in selection.files:
        point, load = _load_file(path)
        status = plugins.switch_on(point, load)
        if status.state == "broken":
            raise PluginError(t("plugin.named_broken", name=point.name, distribution=path, reason=status.reason))
    for name, point in found.items():
        if name not in plugins.statuses:
            plugins.statuses[name] = PluginStatus(name, point.distribution, point.version)
    return plugins


def _requirement_fault(name: str, need: str, found: Mapping[str, FoundPlugin], selection: Selection) -> str | None:
    if need in selection.without:
        return t("plugin.requires_off", name=name, need=need)
    if need not in found:
        known = known_plugins().get(need)
        return t("plugin.requires_missing", name=name, need=need, distribution=known.distribution if known else need)
    return None


def _drop_dependents_of_broken(plugins: Plugins) -> None:
    """A plugin whose requirement turned out broken cannot work either; say which one is to blame."""
    changed = True
    while changed:
        changed = False
        for status in list(plugins.statuses.values()):
            for need in status.requires:
                if status.state == "on" and plugins.statuses[need].state == "broken":
                    plugins.switch_off(status, t("plugin.requires_broken", name=status.name, need=need))
                    changed = True
