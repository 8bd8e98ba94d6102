"""`luna run`: chat with a model; without one, with the demo model, which is built first."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

from .app import App
from .chat_options import ChatRequest, chat_options, make_request
from .options import command, option

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


def _refuse_words(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> None:
    if words:
        raise UsageError(t("run.words", words=" ".join(words)[:80]), hint=t("run.words.hint"))


@command(help=lambda: t("verb.run.help"))
@click.argument("words", nargs=-1, metavar="", expose_value=False, callback=_refuse_words)
@option("--model", metavar="NAME", help=lambda: t("run.model"))
@option("--train-seconds", type=click.FloatRange(1, 86400), help=lambda: t("run.train_seconds"))
@option("--rebuild", is_flag=True, help=lambda: t("run.rebuild"))
@chat_options
@click.pass_context
def run(ctx: click.Context, /, **given: Any) -> int:
    """See the catalogue: `verb.run.help`."""
    return run_chat(ctx.ensure_object(App), make_request(ctx, **given))


def run_chat(app: App, request: ChatRequest) -> int:
    """Open the session and run it in the way that stdin, stdout and `--query` ask for; returns the exit status."""
    from dataclasses import replace

    from luna_kernel.base.encodings import decode
    from luna_kernel.chat.conversation import MAX_QUERY_BYTES, answer, answer_lines, is_terminal, read_lines
    from luna_kernel.chat.printing import JsonPrinter, PlainPrinter, Printer, TerminalPrinter

    from .early_prompt import opens_quietly
    from .opening import open_for_good

    if request.query == "-":
        request = replace(request, query=decode(sys.stdin.buffer.read(MAX_QUERY_BYTES))[0])
    elif request.query is not None:
        # An argument that is not UTF-8 arrives with its bytes hidden in surrogates.
        request = replace(request, query=decode(os.fsencode(request.query))[0])
    if request.batch is not None:
        return _run_batch(app, request)
    first: str | None = None
    if request.query is None and is_terminal() and not app.json and opens_quietly(request):
        session, first = _open_while_typing(app, request)
        if session is None:
            return 0
    else:
        session = open_for_good(app, request)
    try:
        printer: Printer
        if app.json:
            printer = JsonPrinter()
        elif sys.stdout.isatty():
            printer = TerminalPrinter()
        else:
            printer = PlainPrinter()
        if request.query is not None:
            return 130 if answer(session, request.query, printer) else 0
        if is_terminal() and not app.json:
            from luna_kernel.chat.terminal import converse

            if first is None:
                app.say(t("run.welcome"))
            return converse(session, printer, color=not os.environ.get("NO_COLOR"), first=first)
        if sys.stdin.isatty():
            app.say(t("run.one_per_line"))
        return answer_lines(session, read_lines(sys.stdin.buffer), printer)
    finally:
        session.close()


def _open_while_typing(app: App, request: ChatRequest) -> tuple[Session | None, str | None]:
    """The session, opened while the first line was typed, and that line; no session where the person has left."""
    from luna_kernel.chat.first_line import first_line
    from luna_kernel.chat.models import find_model
    from luna_kernel.chat.printing import TerminalPrinter

    from .early_prompt import Opening
    from .opening import check_request

    assert request.settings.model is not None
    check_request(app, request)
    find_model(request.settings.model)
    app.say(t("run.welcome"))
    opening = Opening(app, request)
    line = first_line(opening, TerminalPrinter(), say=app.say, color=not os.environ.get("NO_COLOR"))
    if line is None:
        opening.give_up()
        return None, None
    session = opening.session()
    for remark in opening.take_remarks():
        app.say(remark)
    return session, line


def _run_batch(app: App, request: ChatRequest) -> int:
    """Answer a file of questions into another file. They are no conversation, so none is kept."""
    from dataclasses import replace

    from luna_kernel.chat.batch import check_output, read_queries, run_batch

    from .opening import open_for_good

    assert request.batch is not None
    assert request.output is not None
    check_output(request.output, replace_output=request.replace_output)
    queries = read_queries(request.batch)
    if any(query.persona for query in queries):
        app.plugins().registry.get("step", "persona", where=str(request.batch))
    session = open_for_good(app, replace(request, save=False))
    try:
        return run_batch(session, queries, request.output, say=app.say, replace_output=request.replace_output)
    finally:
        session.close()
