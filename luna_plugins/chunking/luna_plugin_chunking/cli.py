"""`luna chunk`, `luna analyze` and `luna benchmark`."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.cli.app import App
from luna_kernel.cli.options import command, json_option, option, plugins_option

import click  # isort: skip

if TYPE_CHECKING:
    from luna_kernel.contracts.data import Chunk, Document
    from luna_kernel.plugins.registry import Component

    from .config import ChunkConfig
    from .quality import Quality

t = catalogue(__package__)

STRATEGIES = ("fixed", "sentence", "semantic", "adaptive", "overlapping", "hierarchical", "markdown")


def _settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how to cut."""
    count = click.IntRange(0, 1_000_000)
    limit = click.IntRange(16, 1_000_000)
    for decorate in (
        option("--jobs", "-j", type=click.IntRange(1, 256), help=lambda: t("option.jobs")),
        option("--cache/--no-cache", default=True, help=lambda: t("option.cache")),
        option("--mend-mojibake", is_flag=True, help=lambda: t("option.mend")),
        option("--preserve-sentences/--no-preserve-sentences", default=True, help=lambda: t("option.preserve")),
        option("--unit", type=click.Choice(["characters", "words"]), help=lambda: t("option.unit")),
        option("--tokenizer", metavar="FILE|DIR", help=lambda: t("option.tokenizer")),
        option("--overlap", type=count, help=lambda: t("option.overlap")),
        option("--max-size", type=limit, default=900, show_default=True, help=lambda: t("option.max_size")),
        option("--min-size", type=count, help=lambda: t("option.min_size")),
        click.argument("paths", nargs=-1, required=True, metavar="FILES"),
    ):
        function = decorate(function)
    return function


def _one_strategy(function: Callable[..., Any]) -> Callable[..., Any]:
    kind = click.Choice(STRATEGIES)
    text = functools.partial(t, "option.strategy")
    return option("--strategy", type=kind, default="sentence", show_default=True, help=text)(function)


@command(help=lambda: t("verb.chunk"))
@_settings
@_one_strategy
@option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help=lambda: t("option.output"))
@option("--show-stats", is_flag=True, help=lambda: t("option.stats"))
@option("--suggest-optimizations", is_flag=True, help=lambda: t("option.suggest"))
@plugins_option
@json_option
@click.pass_obj
def chunk(
    app: App,
    paths: tuple[str, ...],
    strategy: str,
    output: Path | None,
    show_stats: bool,
    suggest_optimizations: bool,
    **fields: Any,
) -> None:
    """Cut documents into chunks: one JSON object per line, on stdout or into a file."""
    import json

    from luna_kernel.base import durable

    documents = _read(app, paths, mend=fields["mend_mojibake"])
    pairs = _cut(app, documents, strategy, fields)
    lines = [
        json.dumps(
            {
                "source": d.source,
                "number": n,
                "start": c.start,
                "end": c.end,
                "heading": c.heading,
                "text": c.text,
                **c.metadata,
            },
            ensure_ascii=False,
        )
        for d, chunks in pairs
        for n, c in enumerate(chunks, 1)
    ]
    if output is not None:
        durable.write_text(output, "".join(line + "\n" for line in lines))
        app.say(t("chunk.written", chunks=len(lines), path=output))
    elif not app.json:
        for line in lines:
            app.write(line)
    report, suggestions = _report(app, pairs, strategy, fields, wanted=show_stats, suggest=suggest_optimizations)
    if app.json:
        whole = {} if output is not None else {"chunks": [json.loads(line) for line in lines]}
        app.emit({"ok": True, "count": len(lines), **whole, **report, **suggestions})
    else:
        _show(app.say, report, suggestions)


@command(help=lambda: t("verb.analyze"))
@_settings
@_one_strategy
@option("--suggest-optimizations", is_flag=True, help=lambda: t("option.suggest"))
@plugins_option
@json_option
@click.pass_obj
def analyze(app: App, paths: tuple[str, ...], strategy: str, suggest_optimizations: bool, **fields: Any) -> None:
    """Report how good the chunks of documents are."""
    pairs = _cut(app, _read(app, paths, mend=fields["mend_mojibake"]), strategy, fields)
    report, suggestions = _report(app, pairs, strategy, fields, wanted=True, suggest=suggest_optimizations)
    if app.json:
        app.emit({"ok": True, "strategy": strategy, **report, **suggestions})
    else:
        _show(app.write, report, suggestions)


@command(help=lambda: t("verb.benchmark"))
@_settings
@option("--strategies", default=",".join(STRATEGIES), metavar="A,B", help=lambda: t("option.strategies"))
@option("--iterations", type=click.IntRange(1, 1000), default=3, show_default=True, help=lambda: t("option.iterations"))
@option("--show-memory", is_flag=True, help=lambda: t("option.memory"))
@plugins_option
@json_option
@click.pass_obj
def benchmark(
    app: App, paths: tuple[str, ...], strategies: str, iterations: int, show_memory: bool, **fields: Any
) -> None:
    """Time the strategies on documents, in turns; nothing comes from the cache."""
    import statistics
    import time
    import tracemalloc

    from luna_kernel.cli.tables import table

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    for name in names:
        if name not in STRATEGIES:
            raise UsageError(t("strategy.unknown", name=name), hint=t("strategy.hint", names=", ".join(STRATEGIES)))
    documents = _read(app, paths, mend=fields["mend_mojibake"])
    fields["cache"] = False
    megabytes = sum(len(document.text.encode("utf-8", "replace")) for document in documents) / 1e6
    times: dict[str, list[float]] = {name: [] for name in names}
    counts = {}
    for _ in range(iterations):
        for name in names:
            begin = time.perf_counter()
            counts[name] = sum(len(chunks) for _, chunks in _cut(app, documents, name, fields))
            times[name].append(time.perf_counter() - begin)
    rows = []
    for name in names:
        seconds = statistics.median(times[name])
        row = {
            "strategy": name,
            "chunks": counts[name],
            "seconds": round(seconds, 4),
            "mb_per_s": round(megabytes / seconds, 2),
        }
        if show_memory:
            tracemalloc.start()
            _cut(app, documents, name, {**fields, "jobs": 1})
            row["peak_mb"] = round(tracemalloc.get_traced_memory()[1] / 1e6, 2)
            tracemalloc.stop()
        rows.append(row)
    if app.json:
        app.emit({"ok": True, "megabytes": round(megabytes, 3), "iterations": iterations, "strategies": rows})
    elif rows:
        app.write(
            table([[t(f"column.{key}") for key in rows[0]], *[[str(value) for value in row.values()] for row in rows]])
        )


def _read(app: App, paths: tuple[str, ...], *, mend: bool) -> list[Document]:
    from luna_kernel.contracts.data import Document
    from luna_kernel.data.reading import find_files, read_files, readers_by_extension

    registry = app.plugins().registry
    files = find_files(paths, readers_by_extension(registry))
    found = []
    for reading in read_files(
        files,
        registry,
        skip_bad=True,
        search=True,
        mend_mojibake=mend,
        on_bad=lambda bad: app.say(f"{bad.place}: {bad.reason.removeprefix(f'{bad.place}: ')}"),
    ):
        found += reading.result.documents
        for record in reading.result.records:
            text = record.text or "\n\n".join(message.content for message in record.messages)
            found.append(Document(text, record.place))
    if not found:
        raise UsageError(t("read.nothing"))
    return found


def _made(app: App, strategy: str, fields: dict[str, Any]) -> tuple[Component, ChunkConfig]:
    most, least, overlap = fields["max_size"], fields["min_size"], fields["overlap"]
    if least is not None and least > most:
        raise UsageError(t("size.order", least=least, most=most), hint=t("size.order.hint"))
    if overlap is not None and overlap * 2 > most:
        raise UsageError(t("overlap.large", overlap=overlap, most=most), hint=t("overlap.large.hint"))
    node = {
        "name": strategy,
        "max_size": most,
        "min_size": min(200, most // 4) if least is None else least,
        "tokenizer": fields["tokenizer"],
        "unit": fields["unit"] or "characters",
        "preserve_sentences": fields["preserve_sentences"],
    }
    if strategy == "overlapping":
        node["overlap"] = most // 8 if overlap is None else overlap
    elif overlap and "strategies" not in fields:
        raise UsageError(t("overlap.unused", strategy=strategy), hint=t("overlap.hint"))
    component = app.plugins().registry.get("chunker", strategy, where="--strategy")
    config: Any = component.make_config(node, where="chunk")
    return component, config


def _cut(
    app: App, documents: list[Document], strategy: str, fields: dict[str, Any]
) -> list[tuple[Document, list[Chunk]]]:
    from luna_kernel.base.machine import cores

    from .measure import measure_of
    from .work import cut

    component, config = _made(app, strategy, fields)
    measure_of(config)  # a tokenizer that cannot be read is told here, not in another process
    large = sum(len(document.text) for document in documents) > 2_000_000
    jobs = fields["jobs"] or (cores() if large else 1)
    with _progress(len(documents)) as advance:
        chunks = cut(documents, component, config, jobs=jobs, cache=fields["cache"], progress=advance)
    return list(zip(documents, chunks, strict=True))


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], object]]:
    """A bar on stderr, called after each document; nothing where nobody watches."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _report(
    app: App,
    pairs: list[tuple[Document, list[Chunk]]],
    strategy: str,
    fields: dict[str, Any],
    *,
    wanted: bool,
    suggest: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    from dataclasses import asdict, replace

    from .quality import candidates, helps, quality

    if not (wanted or suggest):
        return {}, {}
    report: Quality = quality(pairs)
    stats = {"stats": report.to_json()} if wanted else {}
    if not suggest:
        return stats, {}
    settings = {**fields, "min_size": _made(app, strategy, fields)[1].min_size}
    found = []
    for measure, changes in candidates(report, strategy, settings):
        other = {**settings, **{key: value for key, value in changes.items() if key != "strategy"}, "overlap": None}
        tried = quality(_cut(app, [document for document, _ in pairs], changes["strategy"], other))
        gain = helps(measure, report, tried)
        if gain is not None:
            found.append(asdict(replace(gain, changes=changes)))
    return stats, {"suggestions": found}


def _show(write: Callable[[str], None], report: dict[str, Any], suggestions: dict[str, Any]) -> None:
    from luna_kernel.cli.tables import table

    if report:
        write(table([[t(f"stats.{name}"), f"{value:g}"] for name, value in report["stats"].items()]))
    if "suggestions" in suggestions:
        for item in suggestions["suggestions"]:
            options = " ".join(
                f"--{key.replace('_', '-')}" + ("" if value is True else f" {value}")
                for key, value in item["changes"].items()
            )
            write(
                t(
                    "suggest.line",
                    options=options,
                    measure=t(f"stats.{item['measure']}"),
                    before=item["before"],
                    after=item["after"],
                )
            )
        if not suggestions["suggestions"]:
            write(t("suggest.none"))
