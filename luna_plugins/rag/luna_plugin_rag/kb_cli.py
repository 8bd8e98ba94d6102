"""`luna kb stats|verify|remove|export|analyze`."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.cli.app import App
from luna_kernel.cli.options import Command, json_option, option, output_options, plugins_option

import click  # isort: skip

if TYPE_CHECKING:
    from .analysis import Analysis
    from .calibration import Calibration
    from .describing import Stats
    from .knowledge_base import KnowledgeBase

t = catalogue(__package__)


class _Group(Command, click.Group):
    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["stats|verify|remove|export|analyze"]


@click.group(cls=_Group, help=lambda: t("verb.kb"))
def kb() -> None:
    """See the catalogue: `verb.kb`."""


def _which(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which knowledge base."""
    for decorate in (
        option("--kb", metavar="NAME|DIR", help=lambda: t("option.kb")),
        option("--docs", multiple=True, files=True, type=click.Path(path_type=Path), help=lambda: t("option.kb_docs")),
    ):
        function = decorate(function)
    return function


def _verb(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a verb of the group, with the options that all have."""

    def decorate(function: Callable[..., Any]) -> Any:
        wrapped = plugins_option(json_option(_which(click.pass_obj(function))))
        return kb.command(name, cls=Command, help=functools.partial(t, f"kb.{name}"))(wrapped)

    return decorate


def _open(app: App, name: str | None, docs: tuple[Path, ...]) -> KnowledgeBase:
    from .knowledge_base import KnowledgeBase
    from .naming import place_for, place_of

    if (name is None) == (not docs):
        raise UsageError(t("kb.which"), hint=t("kb.which.hint"))
    folder = place_of(name) if name is not None else place_for(docs)
    return KnowledgeBase.open(folder, app.plugins().registry, say=app.say)


@_verb("stats")
@option("--tokenizer", metavar="FILE|DIR", help=lambda: t("option.tokenizer"))
def stats(app: App, kb: str | None, docs: tuple[Path, ...], tokenizer: str | None) -> None:
    """What a knowledge base holds."""
    from .describing import describe

    count = None
    if tokenizer is not None:
        from luna_kernel.data.tokenizer import TOKENIZER_FILE, Tokenizer

        path = Path(tokenizer)
        loaded = Tokenizer.load(path.parent if path.name == TOKENIZER_FILE else path)

        def count(text: str) -> int:
            return len(loaded.encode(text))

    with _open(app, kb, docs) as knowledge:
        found = describe(knowledge, count)
    if app.json:
        app.emit({"ok": True, **found.to_json()})
    else:
        _show_stats(app, found)


def _calibration_text(found: Calibration) -> str:
    """What the calibration found, in a line."""
    from .calibration import LEAST_CHUNKS, LEAST_FILES

    if not found.questions:
        return t("stats.calibration.small", chunks=LEAST_CHUNKS, files=LEAST_FILES)
    before, now = (f"{100 * share:.0f}" for share in (found.answered_before, found.answered))
    return t(
        "stats.calibration.found", count=found.questions, before=before, now=now, shift=number_text(found.shift, 2)
    )


def _show_stats(app: App, found: Stats) -> None:
    from luna_kernel.base.storage import size_text
    from luna_kernel.cli.tables import table

    names = ("files", "documents", "chunks", "characters", "words", "tokens")
    rows = [
        ["folder", found.folder],
        ["store", found.store],
        ["created", found.created or "-"],
        ["changed", found.changed or "-"],
    ]
    rows += [[name, number_text(getattr(found, name))] for name in names if getattr(found, name) is not None]
    rows += [["lengths", f"{found.shortest} / {found.median} / {found.longest}"]]
    rows += [["database", size_text(found.database_bytes)]]
    if found.calibration is not None:
        rows += [["calibration", _calibration_text(found.calibration)]]
    app.write(table([[t(f"stats.{key}"), value] for key, value in rows]))
    head = [t(f"stats.{name}") for name in ("format", "files", "documents", "chunks")]
    lines = [[ending, *map(str, row.values())] for ending, row in found.formats.items()]
    app.write("\n" + table([head, *lines]))
    head = [t(f"stats.{name}") for name in ("index", "encoder", "state", "size")]
    lines = []
    for item in found.indexes:
        encoder = (item.settings or {}).get("encoder") or {}
        state = t(f"stats.state.{item.state}")
        lines.append([item.name, str(encoder.get("name", "-")), state, size_text(item.bytes)])
    app.write("\n" + table([head, *lines]))
    for source, reasons in list(found.unread.items())[:10]:
        app.say(t("rag.skipped", source=source, reason="; ".join(reasons)))


@_verb("verify")
@option("--repair", is_flag=True, help=lambda: t("option.repair"))
def verify(app: App, kb: str | None, docs: tuple[Path, ...], repair: bool) -> int:
    """Compare checksums, offsets and indexes; 1 where something is damaged."""
    from .verification import verify as check

    with _open(app, kb, docs) as knowledge:
        counts = knowledge.store.counts()
        with bar(t("verify.reading"), counts["documents"]) as advance:
            findings = check(knowledge, advance)
        if repair and any(item.kind == "index" for item in findings):
            knowledge.repair()
            app.say(t("verify.repaired"))
            findings = check(knowledge)
    damaged = [item for item in findings if item.is_damage]
    if app.json:
        app.emit({"ok": not damaged, **counts, "findings": [item.to_json() for item in findings]})
        return 1 if damaged else 0
    for item in findings:
        app.write(f"{t('verify.damage') if item.is_damage else t('verify.remark')}: {item.place}: {item.text}")
    for mend in dict.fromkeys(item.mend for item in findings):
        app.say(mend)
    whole = t("verify.whole", documents=counts["documents"], chunks=counts["chunks"])
    app.write(t("verify.count", count=len(damaged)) if damaged else whole)
    return 1 if damaged else 0


@_verb("remove")
@click.argument("patterns", nargs=-1, required=True, metavar="SOURCES")
@option("--yes", is_flag=True, help=lambda: t("option.yes"))
def remove(app: App, kb: str | None, docs: tuple[Path, ...], patterns: tuple[str, ...], yes: bool) -> int:
    """Take files out of the knowledge base, after asking."""
    with _open(app, kb, docs) as knowledge:
        sources = knowledge.matching(patterns)
        listed = [f"  {source}" for source in sources[:20]]
        if len(sources) > 20:
            listed.append(t("docs.more", count=len(sources) - 20))
        if not (yes or app.confirm("\n".join([*listed, t("kb.remove.ask", files=len(sources))]))):
            app.say(t("kb.remove.kept"))
            return 1
        chunks = knowledge.remove(sources)
    if app.json:
        app.emit({"ok": True, "removed": sources, "chunks": chunks})
    else:
        app.write(t("kb.remove.done", files=len(sources), chunks=chunks))
        app.say(t("kb.remove.again"))
    return 0


@_verb("export")
@option("--format", "form", type=click.Choice(["jsonl", "markdown"]), default="jsonl", show_default=True,
        help=lambda: t("option.format"))  # fmt: skip
@output_options
def export(app: App, kb: str | None, docs: tuple[Path, ...], form: str, output: Path | None) -> None:
    """Write the chunks with their places and metadata."""
    from luna_kernel.base import durable

    from .exporting import jsonl, markdown, records

    with _open(app, kb, docs) as knowledge:
        chunks = len(knowledge)
        lines = jsonl(knowledge) if form == "jsonl" else markdown(knowledge)
        if output is not None:
            with durable.create_file(output) as file:
                for line in lines:
                    file.write(line.encode("utf-8", "replace"))
        elif app.json:
            content = {"chunks": list(records(knowledge))} if form == "jsonl" else {"text": "".join(lines)}
            app.emit({"ok": True, "count": chunks, **content})
        else:
            for line in lines:
                sys.stdout.write(line)
            sys.stdout.flush()
    if output is not None and app.json:
        app.emit({"ok": True, "count": chunks, "file": str(output)})
    elif output is not None:
        app.say(t("kb.export.done", chunks=chunks, path=output))


@_verb("analyze")
@option("--questions", type=click.Path(path_type=Path, dir_okay=False), help=lambda: t("option.questions"))
@option("--topics", type=click.IntRange(1, 200), help=lambda: t("option.topics"))
@option("--sample", type=click.IntRange(1, 100_000), default=200, show_default=True, help=lambda: t("option.sample"))
@option("--duplicates", "least", type=click.FloatRange(0.3, 1), default=0.8, show_default=True,
        help=lambda: t("option.duplicates"))  # fmt: skip
@option("--output", "-o", type=click.Path(path_type=Path, file_okay=False), help=lambda: t("option.report"))
def analyze(
    app: App,
    kb: str | None,
    docs: tuple[Path, ...],
    questions: Path | None,
    topics: int | None,
    sample: int,
    least: float,
    output: Path | None,
) -> None:
    """Topics, gaps, quality of the retrievers, near duplicates."""
    from .analysis import analyse, read_questions
    from .report import write_report

    asked = read_questions(questions) if questions is not None else None
    with _open(app, kb, docs) as knowledge, bar(t("analyze.working"), 4) as advance:
        found = analyse(knowledge, questions=asked, topics=topics, sample=sample, least=least, progress=advance)
    if output is not None:
        write_report(output, found)
    if app.json:
        report = {} if output is None else {"report": str(output / "report.md")}
        app.emit({"ok": True, **found.to_json(), **report})
        return
    _show_analysis(app, found)
    if output is not None:
        app.say(t("analyze.written", path=output / "report.md"))


def _show_analysis(app: App, found: Analysis) -> None:
    from .report import sections

    for title, lines in sections(found):
        app.write(f"{title}\n" + "\n".join(f"  {line}" for line in lines) + "\n")


@contextlib.contextmanager
def bar(text: str, total: int) -> Iterator[Callable[[], object]]:
    """A bar on stderr, told after each piece; nothing where nobody watches."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(text, total=total)
        yield lambda: progress.advance(task)
