"""The plugins of one run: switching single ones on and off, collecting their components, calling their hooks."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pluggy

from luna_kernel import LUNA_API
from luna_kernel.base.errors import LunaError, PluginError, StorageError
from luna_kernel.base.messages import catalogue

from . import hookspecs
from .discovery import FoundPlugin
from .kinds import HOOK_KINDS
from .registry import Component, Registry
from .selection import Selection

t = catalogue(__package__)

KERNEL = "kernel"
"""Name under which the kernel's own components are registered."""

HEAVY = ("torch", "numpy", "transformers", "pydantic", "structlog", "faiss", "rich", "prompt_toolkit")
"""Libraries that a light module must not import: every `luna --help` would pay for it."""


@dataclass
class PluginStatus:
    """What `luna plugins` shows of one plugin."""

    name: str
    distribution: str
    version: str
    state: str = "off"
    """`on`, `off` or `broken`."""
    reason: str = ""
    """Why it is broken, or off although it was selected."""
    api: int | None = None
    requires: tuple[str, ...] = ()
    import_ms: float | None = None
    heavy: tuple[str, ...] = ()
    """Heavy libraries that its light module imported first."""
    module: ModuleType | None = field(default=None, repr=False)


class _Manager(pluggy.PluginManager):
    """pluggy, looking at names of hooks only: its own look at every name of every module takes 2 ms."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        """The marks of one name of a plugin, if it is a hook's."""
        return super().parse_hookimpl_opts(plugin, name) if name.startswith("luna_") else None


class Plugins:
    """The plugins of one run: what is on, its components, and how to call its hooks."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.registry = Registry()
        self.statuses: dict[str, PluginStatus] = {}
        self.faults: list[LunaError] = []
        """Why plugins that were named cannot be used; empty after a strict load."""
        self._manager = _Manager("luna")
        self._manager.add_hookspecs(hookspecs)
        self._trace = os.environ.get("LUNA_TRACE_PLUGINS", "") not in ("", "0")

    @property
    def names(self) -> list[str]:
        """Names of the plugins that are on, the kernel not counted."""
        return [s.name for s in self.statuses.values() if s.state == "on" and s.name != KERNEL]

    @property
    def remarks(self) -> list[str]:
        """One line per plugin that should be on and is not; the command line prints them on stderr."""
        return [
            t("plugin.broken_remark", name=s.name, distribution=s.distribution, reason=s.reason)
            for s in self.statuses.values()
            if s.reason
        ]

    def raise_faults(self) -> None:
        """Raise what is in `faults`: the only one, or all of them as one error."""
        if not self.faults:
            return
        if len(self.faults) == 1:
            raise self.faults[0]
        hints = dict.fromkeys(fault.hint for fault in self.faults if fault.hint)
        raise PluginError("\n".join(fault.text for fault in self.faults), hint="\n".join(hints) or None)

    def tell(self, hook: str, **arguments: Any) -> list[Any]:
        """Call a telling hook on every plugin; returns the answers that are not None.

        A failure is logged with the plugin's name and the others are still called, unless the plugin declared
        itself critical (`LUNA_CRITICAL = True`); then it is raised, as a `StorageError` where the disk refused, else
        as a `PluginError`.
        """
        return [answer for _, answer in self._answers(hook, arguments)]

    def tell_by_plugin(self, hook: str, **arguments: Any) -> dict[str, Any]:
        """As `tell`, with the answers under the names of their plugins."""
        return dict(self._answers(hook, arguments))

    def first(self, hook: str, **arguments: Any) -> Any:
        """The first answer of a telling hook that is not None, or None; all are called."""
        answers = self.tell(hook, **arguments)
        return answers[0] if answers else None

    def _answers(self, hook: str, arguments: Mapping[str, Any]) -> list[tuple[str, Any]]:
        answers = []
        for impl in reversed(self._impls(hook)):  # pluggy keeps the first to be called last in its list
            try:
                answer = self._call(impl, hook, arguments)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a hook that calls sys.exit must not end a training run
                text = t("plugin.hook_failed", plugin=impl.plugin_name, hook=hook, reason=_reason(error))
                if getattr(impl.plugin, "LUNA_CRITICAL", False):
                    # A disk that refuses is no mistake in the use of the plugin.
                    raise (StorageError if isinstance(error, StorageError) else PluginError)(text) from error
                from luna_kernel.base.logging import get_logger

                get_logger("luna.plugins").warning("hook_failed", plugin=impl.plugin_name, hook=hook, reason=text)
                continue
            if answer is not None:
                answers.append((impl.plugin_name, answer))
        return answers

    # --- switching on --------------------------------------------------------------------------------------------

    def switch_on(self, plugin: FoundPlugin, load: Callable[[], ModuleType]) -> PluginStatus:
        """Import, check and register one plugin; on any fault its status is `broken` and it leaves no trace."""
        status = PluginStatus(plugin.name, plugin.distribution, plugin.version)
        self.statuses[plugin.name] = status
        try:
            _check_rivals(plugin)
            self._import(status, load)
            _check_api(plugin, status)
            status.requires = _requires(status.module)
            self._manager.register(status.module, plugin.name)
            self._manager.check_pending()
            self._check_marks(status.module)
            self._collect(plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a plugin that exits at import must not end Luna in silence
            self.switch_off(status, _reason(error))
        else:
            status.state = "on"
        return status

    def switch_off(self, status: PluginStatus, reason: str, *, state: str = "broken") -> None:
        """Mark a plugin broken (or off), and take back what it added."""
        status.state, status.reason = state, reason
        self.registry.remove_plugin(status.name)
        if self._manager.has_plugin(status.name):
            self._manager.unregister(name=status.name)

    def _import(self, status: PluginStatus, load: Callable[[], ModuleType]) -> None:
        before = {name for name in HEAVY if name in sys.modules}
        begin = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):  # stdout is data; a plugin that prints must not spoil --json
            status.module = load()
        status.import_ms = (time.perf_counter() - begin) * 1000
        status.heavy = tuple(name for name in HEAVY if name in sys.modules and name not in before)

    def _check_marks(self, module: ModuleType | None) -> None:
        """A hook's name without `@hookimpl` would never be called: say so instead of saying nothing."""
        for name, value in vars(module).items():
            if name.startswith("luna_") and callable(value) and not hasattr(value, "luna_impl"):
                raise PluginError(t("plugin.unmarked_hook", hook=name))
        for caller in self._manager.get_hookcallers(module) or []:
            for impl in caller.get_hookimpls():
                if impl.plugin is module and (impl.hookwrapper or impl.wrapper):
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
            oldest: int | None = None,
            help: str = "",  # noqa: A002
            place: str | None = None,
            default: Mapping[str, Any] | None = None,
            automatic: bool = True,
        ) -> None:
            if kind not in kinds:
                raise PluginError(t("plugin.wrong_kind", hook=hook, kind=kind, kinds=", ".join(kinds)))
            for value in (target, config):
                if value is not None and not _is_target(value):
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
                    oldest=oldest,
                    help=help,
                    place=place,
                    default=dict(default or {}),
                    automatic=automatic,
                )
            )

        return add

    # --- calling -------------------------------------------------------------------------------------------------

    def _impls(self, hook: str) -> list[pluggy.HookImpl]:
        return list(getattr(self._manager.hook, hook).get_hookimpls())

    def _call(self, impl: pluggy.HookImpl, hook: str, arguments: Mapping[str, Any]) -> Any:
        begin = time.perf_counter()
        try:
            return impl.function(*[arguments[name] for name in impl.argnames])
        finally:
            if self._trace:
                ms = (time.perf_counter() - begin) * 1000
                print(f"[luna plugins] {impl.plugin_name:<16} {hook:<28} {ms:8.3f} ms", file=sys.stderr)


def _is_target(text: Any) -> bool:
    """Whether `text` is `package.module:attribute`."""
    if not isinstance(text, str) or text.count(":") != 1:
        return False
    return all(part.isidentifier() for side in text.split(":") for part in side.split("."))


def _check_rivals(plugin: FoundPlugin) -> None:
    if plugin.rivals:
        both = ", ".join([plugin.distribution, *plugin.rivals])
        raise PluginError(t("plugin.rivals", name=plugin.name, distributions=both))


def _check_api(plugin: FoundPlugin, status: PluginStatus) -> None:
    api = getattr(status.module, "LUNA_API", None)
    if not isinstance(api, int) or isinstance(api, bool):
        raise PluginError(t("plugin.no_api", expected=LUNA_API))
    status.api = api
    if api != LUNA_API:
        key = "plugin.api_newer" if api > LUNA_API else "plugin.api_older"
        raise PluginError(t(key, api=api, expected=LUNA_API, distribution=plugin.distribution))


def _requires(module: ModuleType | None) -> tuple[str, ...]:
    requires = getattr(module, "LUNA_REQUIRES", ())
    if not isinstance(requires, (tuple, list)) or not all(isinstance(name, str) for name in requires):
        raise PluginError(t("plugin.bad_requires", value=repr(requires)))
    return tuple(requires)


def _reason(error: BaseException) -> str:
    """One line that says why; Luna's own errors already do."""
    if isinstance(error, LunaError):
        return error.text
    if isinstance(error, pluggy.PluginValidationError):
        return " ".join(str(error).split())
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        text = t("plugin.exits", code=error.code)
    elif isinstance(error, SyntaxError) and error.filename:
        text = f"{type(error).__name__}: {error.msg} ({os.path.basename(error.filename)}:{error.lineno})"  # noqa: PTH119
    return text.splitlines()[0].rstrip(": ")
