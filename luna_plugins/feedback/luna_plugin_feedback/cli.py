"""`luna feedback list|stats|export|import|reflect|redact|delete`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.cli.app import App
from luna_kernel.cli.options import Command, device_option, json_option, option, output_options, plugins_option

import click  # isort: skip

if TYPE_CHECKING:
    from .entry import Entry
    from .store import Reflection

t = catalogue(__package__)

_SHOWN_FAULTS = 10
_COLUMN = 48


class _Group(Command, click.Group):
    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["|".join(self.commands)]


@click.group(cls=_Group, help=lambda: t("verb.feedback"))
def feedback() -> None:
    """See the catalogue: `verb.feedback`."""


_since = option("--since", metavar="7d", help=lambda: t("option.since"))


@feedback.command("list", cls=Command, help=lambda: t("verb.list"))
@_since
@option("--limit", type=click.IntRange(1), default=20, show_default=True, help=lambda: t("option.limit"))
@option("--reflections", is_flag=True, help=lambda: t("option.reflections"))
@json_option
@click.pass_obj
def list_(app: App, since: str | None, limit: int, reflections: bool) -> None:
    """One line per entry, the newest last."""
    from luna_kernel.cli.tables import table

    from .exchange import to_json
    from .store import opened

    entries = _entries(since)[-limit:]
    with opened() as store:
        about = [item for item in store.reflections() if item.entry_id in {entry.id for entry in entries}]
    if app.json:
        thoughts = {"reflections": [vars(item) for item in about]} if reflections else {}
        app.emit({"ok": True, "entries": [to_json(entry) for entry in entries], **thoughts})
    elif not entries:
        app.say(t("list.none"))
    elif reflections:
        app.write("\n\n".join(_thought(item, entries) for item in about) or t("list.no_reflections"))
    else:
        head = [t(f"column.{name}") for name in ("id", "when", "judgement", "question", "answer", "comment")]
        app.write(table([head, *map(_row, entries)]))


def _row(entry: Entry) -> list[str]:
    said = [t(f"verdict.{entry.verdict}")] if entry.verdict else []
    said += [f"{t(f'dimension.{name}')} {value}" for name, value in entry.ratings.items()]
    words = entry.text or (t("list.correction", text=entry.correction) if entry.correction else "")
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created))
    return [entry.id[:8], when, ", ".join(said) or "-", *map(_short, (entry.question, entry.answer, words))]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _COLUMN else line[: _COLUMN - 1] + "…"


def _thought(item: Reflection, entries: list[Entry]) -> str:
    entry = next(entry for entry in entries if entry.id == item.entry_id)
    return f"{item.entry_id[:8]}  {_short(entry.question)}  ({item.model})\n{item.text}"


@feedback.command("stats", cls=Command, help=lambda: t("verb.stats"))
@_since
@option("--min-entries", type=click.IntRange(1), help=lambda: t("option.min_entries"))
@option("--threshold", type=click.FloatRange(1, 5), help=lambda: t("option.threshold"))
@json_option
@click.pass_obj
def stats(app: App, since: str | None, min_entries: int | None, threshold: float | None) -> None:
    """Figures by dimension, weaknesses, keywords and themes."""
    from .analysis import MIN_ENTRIES, WEAK_BELOW, analyse

    report = analyse(_entries(since), min_entries=min_entries or MIN_ENTRIES, threshold=threshold or WEAK_BELOW)
    if app.json:
        app.emit({"ok": True, **report})
    else:
        app.write(_report(report))


def _report(report: dict[str, Any]) -> str:
    from luna_kernel.cli.tables import table

    counts = {name: report[name] for name in ("count", "good", "bad", "comments", "corrections")}
    lines = [t("stats.counts", **counts)]
    if report["status"] != "ok":
        return "\n".join([*lines, t("stats.few", missing=report["missing"])])
    rows = [
        [t(f"dimension.{name}"), *(f"{found[key]:g}" for key in ("count", "mean", "median", "deviation"))]
        for name, found in report["dimensions"].items()
    ]
    if rows:
        lines += [
            "",
            table([[t(f"column.{key}") for key in ("dimension", "count", "mean", "median", "deviation")], *rows]),
        ]
    weak = ", ".join(t(f"dimension.{name}") for name in report["weaknesses"])
    lines += ["", t("stats.weak", names=weak, threshold=report["threshold"]) if weak else t("stats.no_weak")]
    for name in ("keywords", "themes"):
        if report[name]:
            found = ", ".join(f"{item['text']} ({item['comments']})" for item in report[name])
            lines.append(t(f"stats.{name}", found=found))
    return "\n".join(lines)


@feedback.command("export", cls=Command, help=lambda: t("verb.export"))
@output_options
@_since
@option("--redact/--no-redact", default=True, help=lambda: t("option.redact"))
@json_option
@click.pass_obj
def export(app: App, output: Path | None, since: str | None, redact: bool) -> None:
    """Write entries as JSON lines."""
    from luna_kernel.base import durable

    from .exchange import to_line
    from .privacy import redact_entry

    masked: Counter[str] = Counter()
    lines = []
    for entry in _entries(since):
        if redact:
            entry, found = redact_entry(entry)
            masked.update(found)
        lines.append(to_line(entry))
    if output is None:
        sys.stdout.write("".join(lines))
    else:
        durable.write_text(output, "".join(lines), private=True)
    if app.json and output is not None:
        app.emit({"ok": True, "entries": len(lines), "masked": dict(masked), "path": str(output)})
    elif output is not None:
        app.say(t("export.done", count=len(lines), path=output))
    if masked and not app.json:
        app.say(t("redact.masked", found=", ".join(f"{name} {count}" for name, count in masked.items())))


@feedback.command("import", cls=Command, help=lambda: t("verb.import"))
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@option("--skip-bad", is_flag=True, help=lambda: t("option.skip_bad"))
@option("--redact", is_flag=True, help=lambda: t("option.redact_import"))
@json_option
@click.pass_obj
def import_(app: App, path: Path, skip_bad: bool, redact: bool) -> None:
    """Read entries out of JSON lines; all or nothing, unless faults are to be passed over."""
    from .exchange import read_file
    from .privacy import redact_entry
    from .store import opened

    read = read_file(path)
    faults = [f"{path}:{number}: {reason}" for number, reason in read.faults]
    if faults and not skip_bad:
        shown = [
            *faults[:_SHOWN_FAULTS],
            *([t("import.more", count=len(faults) - _SHOWN_FAULTS)] if len(faults) > _SHOWN_FAULTS else []),
        ]
        raise UsageError("\n".join([t("import.faults", count=len(faults)), *shown]), hint=t("import.faults.hint"))
    if not read.entries:
        raise UsageError(t("import.empty", path=path), hint=t("import.empty.hint"))
    entries = [redact_entry(entry)[0] for entry in read.entries] if redact else read.entries
    with opened() as store:
        added = store.add_new(entries)
    if app.json:
        places = [{"line": number, "reason": reason} for number, reason in read.faults]
        app.emit({"ok": True, "added": added, "known": len(entries) - added, "faults": places})
        return
    for fault in faults:
        app.say(fault)
    app.say(t("import.done", added=added, known=len(entries) - added, faults=len(faults)))


@feedback.command("reflect", cls=Command, help=lambda: t("verb.reflect"))
@option("--model", metavar="NAME", required=True, help=lambda: t("option.model"))
@option("--limit", type=click.IntRange(1), default=20, show_default=True, help=lambda: t("option.limit"))
@_since
@device_option
@plugins_option
@json_option
@click.pass_obj
def reflect(app: App, model: str, limit: int, since: str | None, device: str) -> None:
    """Let a model write about feedback that it has not written about yet."""
    from luna_kernel.base.device import choose_device
    from luna_kernel.chat.generators import LunaGenerator
    from luna_kernel.chat.models import find_model
    from luna_kernel.model.checkpoint import open_model

    from .reflection import reflect as ask
    from .reflection import wants_reflection
    from .store import opened

    folder = find_model(model)
    with opened() as store:
        done = {item.entry_id for item in store.reflections() if item.model == folder.name}
        entries = [entry for entry in _entries(since) if wants_reflection(entry) and entry.id not in done][-limit:]
        if not entries:
            raise UsageError(t("reflect.nothing"), hint=t("reflect.nothing.hint"))
        generator = LunaGenerator(
            open_model(folder, selection=app.plugins().selection, device=choose_device(device).name)
        )
        made = []
        for number, entry in enumerate(entries, 1):
            app.say(t("reflect.progress", number=number, total=len(entries), question=_short(entry.question)))
            try:
                text = ask(generator, entry)
            except UsageError as error:  # longer than the model reads: the others are not
                app.say(error.text)
                continue
            if text:
                store.add_reflection(entry.id, model=folder.name, text=text)
                made.append({"entry": entry.id, "text": text})
    if app.json:
        app.emit({"ok": True, "model": folder.name, "reflections": made})
    else:
        app.write("\n\n".join(f"{item['entry'][:8]}  {item['text']}" for item in made) or t("list.no_reflections"))


@feedback.command("redact", cls=Command, help=lambda: t("verb.redact"))
@json_option
@click.pass_obj
def redact(app: App) -> None:
    """Mask personal data in the store itself, for good."""
    from .privacy import redact as masked
    from .privacy import redact_entry
    from .store import opened

    with opened() as store:
        changed = store.rewrite(lambda entry: redact_entry(entry)[0], lambda text: masked(text)[0])
    if app.json:
        app.emit({"ok": True, "changed": changed})
    else:
        app.say(t("redact.done", count=changed))


@feedback.command("delete", cls=Command, help=lambda: t("verb.delete"))
@click.argument("ids", nargs=-1)
@option("--session", metavar="ID", help=lambda: t("option.session"))
@option("--all", "everything", is_flag=True, help=lambda: t("option.all"))
@json_option
@click.pass_obj
def delete(app: App, ids: tuple[str, ...], session: str | None, everything: bool) -> None:
    """Delete entries, and what models wrote about them."""
    from .store import opened

    if not ids and session is None and not everything:
        raise UsageError(t("delete.nothing"), hint=t("delete.nothing.hint"))
    with opened() as store:
        known = [entry.id for entry in store.entries()]
        chosen = [_whole(name, known) for name in ids]
        gone = store.delete(ids=chosen, session=session, everything=everything)
    if app.json:
        app.emit({"ok": True, "deleted": gone})
    else:
        app.say(t("delete.done", count=gone))


def _whole(begun: str, known: list[str]) -> str:
    """The one id that begins so."""
    found = [name for name in known if name.startswith(begun)]
    if len(found) != 1 or not begun:
        raise UsageError(t("delete.unknown", name=begun[:40], count=len(found)), hint=t("delete.unknown.hint"))
    return found[0]


def _entries(since: str | None) -> list[Entry]:
    from .analysis import since_time
    from .store import opened

    begin = since_time(since)
    with opened() as store:
        return store.entries(begin)
