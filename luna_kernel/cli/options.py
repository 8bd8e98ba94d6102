"""The command class of every verb, and the options that several verbs share.

    @command()
    @plugins_option
    @json_option
    @option("--steps", type=int, default=1000, show_default=True, help=lambda: t("train.steps"))
    @click.pass_obj
    def train(app: App, steps: int) -> None:

Help texts may be functions, so that they are in the language of the moment they are shown.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

from . import language  # noqa: F401  binds click's texts, so it stands before click
from .app import App

t = catalogue(__package__)

F = TypeVar("F", bound=Callable[..., Any])
Text = str | Callable[[], str]

CONFIG_SUFFIXES = (".yaml", ".yml", ".toml", ".json")
"""What a file of settings is called; none of them is taken for a text."""

_METAVARS = ("BOOLEAN", "CHOICE", "DIRECTORY", "FILE", "FLOAT", "INTEGER", "PATH", "TEXT", "UUID")


class Option(click.Option):
    """An option whose `help` may be a function and whose metavar is translated.

    Args:
        files: it is repeated for each file, and takes the files after its value too: what a shell makes of `*.txt`.
    """

    def __init__(self, *args: Any, help: Text | None = None, files: bool = False, **attrs: Any) -> None:  # noqa: A002
        self._help = help
        self.files = files
        super().__init__(*args, **attrs)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The two columns of the help page."""
        self.help = self._help() if callable(self._help) else self._help
        return super().get_help_record(ctx)

    def make_metavar(self, ctx: click.Context) -> str:
        """`INTEIRO` for `INTEGER`, in Portuguese."""
        metavar = super().make_metavar(ctx)
        return t(f"metavar.{metavar}") if metavar in _METAVARS else metavar


def _repeated(args: Sequence[str], takes: Container[str]) -> Iterator[str]:
    """`--data a.txt b.txt c` as `--data a.txt --data b.txt c`, if `b.txt` is a file and `c` is none."""
    name, value = "", False
    """The option of files that is being read, and whether its own value has come."""
    for arg in args:
        if arg.startswith("-"):
            name, value = (arg if arg in takes else ""), False
        elif name and value and not arg.endswith(CONFIG_SUFFIXES) and Path(arg).is_file():
            yield name
        else:
            name, value = (name if not value else ""), True
        yield arg


class Command(click.Command):
    """A verb. `help` may be a function; without one, the catalogue of the command line has `verb.<name>.help`."""

    def __init__(self, *args: Any, help: Text | None = None, **attrs: Any) -> None:  # noqa: A002
        self._help = help
        super().__init__(*args, **attrs)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own, and for every verb `--debug` and `--lang`, which its help page does not repeat."""
        params = super().get_params(ctx)
        names = {name for param in params for name in param.opts}
        return params + [param for param in _everywhere() if ctx.parent is not None and param.opts[0] not in names]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, after each file that follows an option of files has got the option's name before it."""
        takes = {name for param in self.params if isinstance(param, Option) and param.files for name in param.opts}
        return super().parse_args(ctx, list(_repeated(args, takes)))

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """`[OPÇÕES]` for `[OPTIONS]`, in Portuguese."""
        pieces = super().collect_usage_pieces(ctx)
        return [t("metavar.options") if piece == "[OPTIONS]" else piece for piece in pieces if piece]

    def get_short_help_str(self, limit: int = 45) -> str:
        """The first sentence, for the list of a group."""
        self.help = self._help() if callable(self._help) else self._help
        return super().get_short_help_str(limit)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The paragraphs between usage and options."""
        self.help = self._help() if callable(self._help) else self._help
        super().format_help_text(ctx, formatter)

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """`--help`, whose line is translated when it is shown."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = t("option.help")
        return option


def command(*, help: Text | None = None, **attrs: Any) -> Callable[[Callable[..., Any]], Command]:  # noqa: A002
    """Make a function a verb; `help` defaults to its docstring."""

    def decorate(function: Callable[..., Any]) -> Command:
        return click.command(cls=Command, help=help or function.__doc__, **attrs)(function)

    return decorate


def option(*names: str, **attrs: Any) -> Callable[[F], F]:
    """`click.option` with this module's `Option`."""
    return click.option(*names, cls=Option, **attrs)


@functools.cache
def _everywhere() -> tuple[click.Parameter, ...]:
    @debug_option
    @lang_option
    def holder() -> None: ...

    params: list[click.Parameter] = holder.__click_params__  # type: ignore[attr-defined]
    for param in params:
        assert isinstance(param, Option)
        param.hidden = True
    return tuple(params)


def _app(ctx: click.Context) -> App:
    return ctx.ensure_object(App)


def _take_plugins(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        _app(ctx).select(value)


def _take_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        _app(ctx).json = True


def _take_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        _app(ctx).debug = True


def plugins_option(function: F) -> F:
    """`--plugins`: kept in the `App`, not passed to the verb."""
    return option(
        "--plugins",
        expose_value=False,
        callback=_take_plugins,
        metavar="LIST",
        help=lambda: t("option.plugins"),
    )(function)


def json_option(function: F) -> F:
    """`--json`: sets `app.json`, not passed to the verb."""
    return option("--json", is_flag=True, expose_value=False, callback=_take_json, help=lambda: t("option.json"))(
        function
    )


def debug_option(function: F) -> F:
    """`--debug`: sets `app.debug`, not passed to the verb."""
    return option("--debug", is_flag=True, expose_value=False, callback=_take_debug, help=lambda: t("option.debug"))(
        function
    )


def _check_language(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value is not None and value.lower()[:2] not in ("pt", "en"):
        raise click.BadParameter(t("option.lang.bad", value=value))


def lang_option(function: F) -> F:
    """`--lang pt|en`; `main` has taken it before click saw the line, so that click itself speaks it."""
    return option(
        "--lang", expose_value=False, metavar="pt|en", callback=_check_language, help=lambda: t("option.lang")
    )(function)


def output_options(function: F) -> F:
    """`--output FILE`, passed to the verb as `output`, and `--force`, without which nothing is written over."""

    @functools.wraps(function)
    def checked(*args: Any, output: Path | None, force: bool, **given: Any) -> Any:
        if output is not None and output.exists() and not force:
            raise UsageError(t("option.output.exists", path=output), hint=t("option.output.exists.hint"))
        return function(*args, output=output, **given)

    file = click.Path(path_type=Path, dir_okay=False)
    forced = option("--force", is_flag=True, help=lambda: t("option.force"))(checked)
    return cast("F", option("--output", "-o", type=file, help=lambda: t("option.output"))(forced))


def device_option(function: F) -> F:
    """`--device auto|cpu|cuda|mps`, passed to the verb as `device`. An explicit device is never replaced by another."""
    return option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        show_default=True,
        help=lambda: t("option.device"),
    )(function)
