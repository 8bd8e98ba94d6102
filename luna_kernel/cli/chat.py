"""`luna chat`: `luna run` with a model of one's own."""

from __future__ import annotations

from typing import Any

import click

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

from .app import App
from .chat_options import chat_options, make_request
from .options import command, option
from .run import run_chat

t = catalogue(__package__)


@command(help=lambda: t("verb.chat.help"))
@click.argument("name", required=False)
@option("--model", metavar="NAME", help=lambda: t("run.model"))
@chat_options
@click.pass_context
def chat(ctx: click.Context, /, name: str | None, **given: Any) -> int:
    """See the catalogue: `verb.chat.help`."""
    if name is not None and given["model"] is not None and name != given["model"]:
        raise UsageError(t("chat.two_models", first=name, second=given["model"]))
    given["model"] = name or given["model"]
    request = make_request(ctx, **given)
    if request.settings.model is None and request.generator is None:
        raise UsageError(t("chat.no_model"), hint=t("chat.no_model.hint"))
    return run_chat(ctx.ensure_object(App), request)
