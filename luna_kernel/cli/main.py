"""`luna`: a click group that imports a verb's module when the verb is used, and never before.

The kernel's verbs are a table of strings in `luna_kernel.builtin`; plugins add theirs with `luna_add_commands`.
`luna --help` reads only the strings.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

import luna_kernel
from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue, load_texts
from luna_kernel.base.messages import language as spoken
from luna_kernel.builtin import VERBS

from . import language
from .app import App
from .failure import close_quietly, report
from .options import Command, debug_option, json_option, lang_option, option, plugins_option

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Component

t = catalogue(__package__)


class LunaGroup(Command, click.Group):
    """The root. Its `main` is the whole run: language, encoding, errors and exit status, also under click's runner."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and leave with its exit status.

        With `standalone_mode=False` errors are raised and the verb's value is returned, as click does.
        """
        args = list(sys.argv[1:] if args is None else args)
        with language.speaking(args):
            language.use_utf8()
            app = App(selection=language.peek(args, "--plugins"), json="--json" in args, debug="--debug" in args)
            if not standalone_mode:
                return super().main(args, prog_name or "luna", complete_var, standalone_mode=False, obj=app, **extra)
            status = self._run(args, prog_name or "luna", app, {"complete_var": complete_var, **extra})
            try:
                sys.stdout.flush()
            except OSError:  # reported already; without this Python would try again at its end, and say so
                close_quietly()
                status = status or 1
        sys.exit(status)

    def _run(self, args: list[str], prog_name: str, app: App, extra: dict[str, Any]) -> int:
        try:
            value = super().main(args, prog_name, standalone_mode=False, obj=app, **extra)
            sys.stdout.flush()
        except BrokenPipeError:
            return 0
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the one place where every error ends
            try:
                return report(error, app)
            except BrokenPipeError:
                return 1
        # `ctx.exit(n)` and a verb's own `return n` both arrive here.
        return value if isinstance(value, int) and not isinstance(value, bool) else 0

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        """click knows neither NO_COLOR nor FORCE_COLOR; every verb inherits what is decided here."""
        if os.environ.get("NO_COLOR"):
            extra["color"] = False
        elif os.environ.get("FORCE_COLOR"):
            extra["color"] = True
        return super().make_context(info_name, args, parent, **extra)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """`[OPÇÕES] COMANDO [ARGUMENTOS]...`."""
        return [t("metavar.options"), t("help.usage")]

    # --- verbs ---------------------------------------------------------------------------------------------------

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs: the kernel's in the order of the table, then those of plugins."""
        return [name for name, _ in self._lines(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb.

        Raises:
            UsageError: the verb is known to come with a plugin that is not here or switched off.
        """
        target = VERBS.get(cmd_name)
        if target is not None:
            module, _, attribute = target.partition(":")
            verb = getattr(importlib.import_module(module), attribute)
        else:
            app = ctx.ensure_object(App)
            component = app.plugins(strict=not ctx.resilient_parsing).registry.find("verb", cmd_name)
            if component is None:
                self._explain_missing(app, cmd_name)
                return None
            verb = component.load()
        assert isinstance(verb, click.Command), f"verb {cmd_name} is not a click command"
        return verb

    def _explain_missing(self, app: App, name: str) -> None:
        from luna_kernel.plugins.known import known_plugin

        known = known_plugin("verb", name)
        if known is None:
            return
        installed = known.name in app.plugins(strict=False).statuses
        hint = t("verb.off.hint" if installed else "verb.missing.hint", plugin=known.name, package=known.distribution)
        raise UsageError(t("verb.missing", verb=name, plugin=known.name), hint=hint)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click, with the nearest of all verbs for one that does not exist."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from luna_kernel.plugins.registry import suggest

            text = t("verb.unknown", verb=args[0]) + suggest(args[0], self.list_commands(ctx))
            raise click.UsageError(text, ctx) from error

    def _lines(self, ctx: click.Context) -> list[tuple[str, str]]:
        """(verb, its line of help) without importing any verb. A plugin that does not work never breaks the list."""
        lines = [(name, t(f"verb.{name}")) for name in VERBS]
        app = ctx.ensure_object(App)
        try:
            plugins = app.plugins(strict=False)
        except LunaError as error:  # not even a selection
            app.say(t("error.line", text=error.text))
            return lines
        added = [item for item in plugins.registry.of_kind("verb") if item.name not in VERBS]
        return lines + [(item.name, f"{_line(item)} [{item.plugin}]") for item in sorted(added, key=lambda i: i.name)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs with one line each."""
        lines = self._lines(ctx)
        with formatter.section(t("help.verbs")):
            formatter.write_dl(lines)
        app = ctx.ensure_object(App)
        try:
            plugins = app.plugins(strict=False)
        except LunaError:
            return
        for text in [*plugins.remarks, *(fault.text for fault in plugins.faults)]:
            app.say(text)


def _line(verb: Component) -> str:
    """A plugin's verb in the user's language: its package's text `verb.<name>.line`, else what it registered."""
    try:
        texts = load_texts(verb.target.partition(":")[0].partition(".")[0], spoken())
    except (OSError, ValueError, ImportError, AssertionError):  # it has no texts
        return verb.help
    return texts.get(f"verb.{verb.name}.line", verb.help)


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"luna {luna_kernel.__version__}")
        ctx.exit()


@click.group(
    cls=LunaGroup,
    name="luna",
    help=lambda: t("help.luna"),
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="",
)
@plugins_option
@json_option
@debug_option
@lang_option
@option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help=lambda: t("option.version"),
)
def cli() -> None:
    """Root of all verbs."""


def main() -> None:
    """Entry point of the `luna` command."""
    cli.main(prog_name="luna")
