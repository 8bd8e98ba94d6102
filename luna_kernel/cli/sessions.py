"""`luna sessions list|show|resume|search|export|delete`: conversations that were kept, read without torch."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import Command, json_option, option, output_options  # first: it binds click's texts

import click  # isort: skip

from luna_kernel.base import durable
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.streaming import printable

from .app import App
from .tables import table

if TYPE_CHECKING:
    from luna_kernel.chat.store import SessionStore, StoredSession
    from luna_kernel.contracts.chat import Turn

t = catalogue(__package__)

_COLUMN = 60


class _Group(Command, click.Group):
    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["|".join(self.commands)]


@click.group(cls=_Group, help=lambda: t("sessions.help"))
def sessions() -> None:
    """See the catalogue: `sessions.help`."""


@contextlib.contextmanager
def _store() -> Iterator[SessionStore]:
    from luna_kernel.chat.store import SessionStore

    store = SessionStore()
    try:
        yield store
    finally:
        store.close()


@sessions.command("list", cls=Command, help=lambda: t("sessions.list.help"))
@option("--limit", type=click.IntRange(1), default=20, show_default=True, help=lambda: t("sessions.limit"))
@json_option
@click.pass_obj
def list_(app: App, limit: int) -> None:
    """One line per conversation, the last used first."""
    with _store() as store:
        kept = store.sessions()[:limit]
    if app.json:
        app.emit({"sessions": [asdict(item) for item in kept]})
    elif not kept:
        app.say(t("sessions.none"))
    else:
        head = [t(f"sessions.column.{name}") for name in ("id", "name", "changed", "turns", "model", "first")]
        app.write(table([head, *map(_row, kept)]))


def _row(item: StoredSession) -> list[str]:
    return [
        item.id[:8],
        item.name or "-",
        _when(item.updated),
        str(item.num_turns),
        item.model,
        _short(item.first_query),
    ]


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= _COLUMN else line[: _COLUMN - 1] + "…"


@sessions.command("show", cls=Command, help=lambda: t("sessions.show.help"))
@click.argument("name")
@option("--thinking", is_flag=True, help=lambda: t("sessions.thinking"))
@json_option
@click.pass_obj
def show(app: App, name: str, thinking: bool) -> None:
    """A conversation, word by word."""
    with _store() as store:
        found = store.find(name)
        turns = store.turns(found.id)
    if app.json:
        app.emit({**asdict(found), "turns": [_turn_json(turn, found) for turn in turns]})
    else:
        app.write(printable(markdown(found, turns, thinking=thinking)).rstrip())


@sessions.command("resume", cls=Command, help=lambda: t("sessions.resume.help"))
@click.argument("name", required=False)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def resume(ctx: click.Context, name: str | None, options: tuple[str, ...]) -> Any:
    """Go on with a conversation, the last one if none is named: `luna run` with its model and its plugins.

    What stands behind `--` are options of `luna run`, and go before what is known of the conversation.
    """
    from .run import run

    app = ctx.ensure_object(App)
    with _store() as store:
        kept = store.sessions()
        if name is None and not kept:
            raise UsageError(t("sessions.none"))
        found = store.find(name) if name is not None else kept[0]
    if app.selection is None and found.plugins:
        app.select(found.plugins)
    args = ["--session", found.name or found.id, *options]
    if found.model not in ("", "demo") and not {"--model", "--generator"} & set(options):
        # A generator that has no model is recorded under its own name.
        known = app.plugins().registry.find("generator", found.model)
        args += ["--generator" if known else "--model", found.model]
    with run.make_context("luna run", args, parent=ctx.find_root()) as inner:
        return run.invoke(inner)


@sessions.command("search", cls=Command, help=lambda: t("sessions.search.help"))
@click.argument("words", nargs=-1, required=True)
@option("--limit", type=click.IntRange(1), default=20, show_default=True, help=lambda: t("sessions.limit"))
@json_option
@click.pass_obj
def search(app: App, words: tuple[str, ...], limit: int) -> None:
    """Turns with all of the words, the newest first."""
    with _store() as store:
        found = store.search(" ".join(words))[:limit]
    if app.json:
        app.emit({"found": [{"session": item.id, "name": item.name, **_turn_json(turn, item)} for item, turn in found]})
    elif not found:
        app.say(t("sessions.not_found", words=" ".join(words)))
    else:
        head = [t(f"sessions.column.{name}") for name in ("id", "name", "when", "question", "answer")]
        rows = [
            [item.id[:8], item.name or "-", _when(turn.created), _short(turn.query), _short(turn.answer)]
            for item, turn in found
        ]
        app.write(table([head, *rows]))


@sessions.command("export", cls=Command, help=lambda: t("sessions.export.help"))
@click.argument("names", nargs=-1)
@option("--all", "everything", is_flag=True, help=lambda: t("sessions.all"))
@option("--format", "form", type=click.Choice(["markdown", "jsonl"]), help=lambda: t("sessions.format"))
@output_options
@option("--thinking", is_flag=True, help=lambda: t("sessions.thinking"))
@json_option
@click.pass_obj
def export(
    app: App,
    names: tuple[str, ...],
    everything: bool,
    form: str | None,
    output: Path | None,
    thinking: bool,
) -> None:
    """Conversations as Markdown, or a line of JSON per turn."""
    if form is None:
        form = "jsonl" if app.json or (output is not None and output.suffix == ".jsonl") else "markdown"
    with _store() as store:
        chosen = [(item, store.turns(item.id)) for item in _chosen(store, names, everything=everything)]
    if form == "markdown":
        text = "\n".join(markdown(item, turns, thinking=thinking) for item, turns in chosen)
    else:
        lines = [
            {"session": item.id, "name": item.name, **_turn_json(turn, item)} for item, of in chosen for turn in of
        ]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    if output is None:
        app.write(text.rstrip("\n"))
    else:
        durable.write_text(output, text, private=True)
        app.say(t("sessions.exported", count=len(chosen), path=output))


@sessions.command("delete", cls=Command, help=lambda: t("sessions.delete.help"))
@click.argument("names", nargs=-1)
@option("--all", "everything", is_flag=True, help=lambda: t("sessions.all"))
@option("--yes", is_flag=True, help=lambda: t("sessions.yes"))
@json_option
@click.pass_obj
def delete(app: App, names: tuple[str, ...], everything: bool, yes: bool) -> int:
    """Take conversations out of the store, after asking."""
    with _store() as store:
        chosen = _chosen(store, names, everything=everything)
        listed = "\n".join(f"  {item.id[:8]}  {item.name or '-'}  {_short(item.first_query)}" for item in chosen)
        if not (yes or app.confirm(t("sessions.ask", count=len(chosen), listed=listed))):
            app.say(t("sessions.kept"))
            return 1
        for item in chosen:
            store.remove_session(item.id)
    if app.json:
        app.emit({"deleted": [item.id for item in chosen]})
    else:
        app.say(t("sessions.deleted", count=len(chosen)))
    return 0


def _chosen(store: SessionStore, names: tuple[str, ...], *, everything: bool) -> list[StoredSession]:
    if bool(names) == everything:
        raise UsageError(t("sessions.which"), hint=t("sessions.which.hint"))
    return store.sessions() if everything else [store.find(name) for name in dict.fromkeys(names)]


def markdown(found: StoredSession, turns: list[Turn], *, thinking: bool = False) -> str:
    """A conversation for people: who said what, and what it rests on."""
    from luna_kernel.chat.printing import citation_line

    parts = [f"# {found.name or found.id[:8]}", f"{_when(found.created)} · {found.model} · {found.plugins or '-'}"]
    for turn in turns:
        parts += [f"**{t('sessions.you')}:** {turn.query}"]
        if thinking and turn.thinking:
            parts += ["\n".join(f"> {line}" for line in turn.thinking.splitlines())]
        parts += [f"**Luna:** {turn.answer.rstrip()}", *("- " + citation_line(item) for item in turn.citations)]
    return "\n\n".join(parts) + "\n"


def _turn_json(turn: Turn, found: StoredSession) -> dict[str, Any]:
    """A turn as `--json` and JSON lines have it."""
    fields = asdict(turn)
    for name in ("system", "history", "prompt_ids", "answer_ids", "think", "stored"):
        del fields[name]
    return {**fields, "model": found.model}
