"""The options that `luna run` and `luna chat` share, and the request that they make together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

from .options import device_option, json_option, option, plugins_option

if TYPE_CHECKING:
    from luna_kernel.base.settings import Settings

t = catalogue(__package__)

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS_FIELDS = (
    "model", "persona", "device", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed",
    "threads", "cache_limit", "low_memory", "experts_per_token",
)  # fmt: skip
"""Options that are settings too: what was typed goes before environment and files."""


@dataclass(frozen=True)
class ChatRequest:
    """What the command line asked for."""

    settings: Settings
    docs: tuple[Path, ...] = ()
    query: str | None = None
    batch: Path | None = None
    """A file of questions, of `--batch` or `--input`."""
    output: Path | None = None
    """Where their answers go."""
    replace_output: bool = False
    context: str = ""
    steps: tuple[str, ...] | None = None
    generator: str | None = None
    session: str | None = None
    save: bool = True
    thinking: bool = False
    educational: bool = False
    show_tensors: bool = False
    stop: tuple[str, ...] = ()
    train_seconds: float | None = None
    rebuild: bool = False
    adapt: bool = False


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def _numbers(function: F) -> F:
    for name, kind in (
        ("--seed", int), ("--max-tokens", int), ("--repetition-penalty", float), ("--min-p", float),
        ("--top-p", float), ("--top-k", int), ("--temperature", float), ("--threads", int), ("--cache-limit", int),
        ("--experts-per-token", int),
    ):  # fmt: skip
        key = "run." + name.removeprefix("--").replace("-", "_")
        function = option(name, type=kind, help=lambda key=key: t(key))(function)
    return function


def chat_options(function: F) -> F:
    """Everything but `--model`, which `luna chat` wants and `luna run` does not need."""
    for decorate in reversed(
        (
            plugins_option,
            option("--docs", multiple=True, files=True, type=click.Path(path_type=Path), help=lambda: t("run.docs")),
            option("--query", help=lambda: t("run.query")),
            option("--batch", type=_FILE, help=lambda: t("run.batch")),
            option("--input", "input_", type=_FILE, help=lambda: t("run.input")),
            option("--output", type=click.Path(path_type=Path, dir_okay=False), help=lambda: t("run.output")),
            option("--replace-output", is_flag=True, help=lambda: t("run.replace_output")),
            option("--persona", metavar="NAME", help=lambda: t("run.persona")),
            option("--context", default="", help=lambda: t("run.context")),
            option("--session", metavar="NAME", help=lambda: t("run.session")),
            option("--save/--no-save", default=True, help=lambda: t("run.save")),
            option("--thinking", is_flag=True, help=lambda: t("run.thinking")),
            option("--educational", is_flag=True, help=lambda: t("run.educational")),
            option("--show-tensors", is_flag=True, help=lambda: t("run.show_tensors")),
            option("--generator", metavar="NAME", help=lambda: t("run.generator")),
            option("--steps", metavar="LIST", help=lambda: t("run.steps")),
            _numbers,
            option("--stop", multiple=True, help=lambda: t("run.stop")),
            option("--low-memory/--no-low-memory", default=None, help=lambda: t("run.low_memory")),
            option("--adapt", is_flag=True, help=lambda: t("run.adapt")),
            device_option,
            json_option,
        )
    ):
        function = decorate(function)
    return function


def make_request(ctx: click.Context, **given: Any) -> ChatRequest:
    """The request, with the settings of environment and files under what was typed.

    Raises:
        ConfigError: a setting that does not validate; names the place and the key.
        UsageError: options that exclude each other.
    """
    from luna_kernel.base.settings import Settings

    given["batch"] = _batch(given["batch"], given.pop("input_"), given["output"], given["query"])
    typed = {name: given.pop(name) for name in SETTINGS_FIELDS if name in given}
    if ctx.get_parameter_source("device") is not click.core.ParameterSource.COMMANDLINE:
        typed.pop("device", None)
    settings = Settings(**typed)
    settings.apply()
    docs = tuple(given.pop("docs")) or ((settings.docs,) if settings.docs is not None else ())
    steps = given.pop("steps")
    names = None if steps is None else tuple(name.strip() for name in steps.split(",") if name.strip())
    return ChatRequest(settings, docs=docs, steps=names, **given)


def _batch(batch: Path | None, lines: Path | None, output: Path | None, query: str | None) -> Path | None:
    """The file of questions, if there is one."""
    if (batch is not None) + (lines is not None) + (query is not None) > 1:
        raise UsageError(t("run.batch.two"))
    path = batch or lines
    if (path is None) != (output is None):
        raise UsageError(t("run.batch.half"), hint=t("run.batch.half.hint"))
    if path is not None and output is not None and output.resolve() == path.resolve():
        raise UsageError(t("run.batch.same", path=path))
    return path
