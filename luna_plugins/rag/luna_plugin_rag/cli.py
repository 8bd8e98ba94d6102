"""`luna index` and `luna search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.cli.app import App
from luna_kernel.cli.options import command, json_option, option, plugins_option

import click  # isort: skip

t = catalogue(__package__)


@command(help=lambda: t("verb.index"))
@click.argument("paths", nargs=-1, required=True, metavar="DIR", type=click.Path(path_type=Path))
@option("--kb", metavar="NAME|DIR", help=lambda: t("option.kb"))
@option("--rebuild", is_flag=True, help=lambda: t("option.rebuild"))
@option("--max-chars", type=click.IntRange(40, 100_000), help=lambda: t("option.max_chars"))
@option("--mend-mojibake/--no-mend-mojibake", default=None, help=lambda: t("option.mend"))
@option("--max-file-size", "max_file_mb", type=click.IntRange(1, 4000), metavar="MB", help=lambda: t("option.max_file"))
@option("--retriever", "retrievers", multiple=True, metavar="NAME", help=lambda: t("option.retriever"))
@option("--store", metavar="NAME", help=lambda: t("option.store"))
@plugins_option
@json_option
@click.pass_obj
def index(
    app: App,
    paths: tuple[Path, ...],
    kb: str | None,
    rebuild: bool,
    max_chars: int | None,
    mend_mojibake: bool | None,
    max_file_mb: int | None,
    retrievers: tuple[str, ...],
    store: str | None,
) -> None:
    """Read folders and files into a knowledge base."""
    from .config import KnowledgeConfig
    from .naming import place_for, place_of
    from .opening import is_damage, open_filled
    from .step import show_progress, skipped_lines

    registry = app.plugins().registry
    folder = place_of(kb) if kb is not None else place_for(paths)
    fields: dict[str, Any] = {"mend_mojibake": mend_mojibake, "max_file_mb": max_file_mb, "store": store}
    if max_chars is not None:
        fields["chunker"] = {"name": "paragraph", "max_chars": max_chars, "min_chars": min(200, max_chars)}
    if retrievers:
        for name in retrievers:
            registry.get("retriever", name, where="--retriever")
        fields["retrievers"] = tuple(dict.fromkeys(retrievers))
    if store is not None:
        registry.get("knowledge_store", store, where="--store")
    with show_progress() as progress:
        knowledge, summary = open_filled(
            paths,
            folder,
            registry,
            KnowledgeConfig(**fields),
            # Its own documents may be gone: only what was asked for, or what can be made again from the folder, is.
            remake=lambda error: rebuild or (kb is None and is_damage(error)),
            say=app.say,
            progress=progress,
            rebuild=rebuild,
        )
    knowledge.close()
    if app.json:
        app.emit({"ok": True, "knowledge_base": str(folder), **summary.to_json()})
        return
    counts = {"added": len(summary.added), "updated": len(summary.updated), "removed": len(summary.removed)}
    app.write(t("index.done", **counts, unchanged=summary.unchanged))
    fields = {"files": summary.files, "documents": summary.documents, "chunks": summary.chunks}
    app.write(t("index.total", **fields, seconds=number_text(summary.seconds, 1), folder=folder))
    for line in skipped_lines(summary, limit=20):
        app.say(line)


@command(help=lambda: t("verb.search"))
@click.argument("query")
@option("--docs", multiple=True, files=True, type=click.Path(path_type=Path), help=lambda: t("option.docs"))
@option("--kb", metavar="NAME|DIR", help=lambda: t("option.kb"))
@option("--limit", "-k", type=click.IntRange(1, 100), default=5, show_default=True, help=lambda: t("option.limit"))
@option("--filter", "filters", multiple=True, metavar="COND", help=lambda: t("option.filter"))
@option("--threshold", type=click.FloatRange(0, 1), help=lambda: t("option.threshold"))
@plugins_option
@json_option
@click.pass_obj
def search(
    app: App,
    query: str,
    docs: tuple[Path, ...],
    kb: str | None,
    limit: int,
    filters: tuple[str, ...],
    threshold: float | None,
) -> None:
    """Search a folder of documents or a knowledge base."""
    from dataclasses import asdict

    from .commands import place_text
    from .filters import parse_filters
    from .knowledge_base import KnowledgeBase
    from .naming import place_for, place_of
    from .opening import open_filled
    from .step import show_progress

    if (kb is None) == (not docs):
        raise UsageError(t("search.where"), hint=t("search.where.hint"))
    if not query.strip():
        raise UsageError(t("search.empty"))
    conditions = parse_filters(filters)
    registry = app.plugins().registry
    if kb is not None:
        knowledge = KnowledgeBase.open(place_of(kb), registry, say=app.say)
    else:
        with show_progress() as progress:
            knowledge, _ = open_filled(docs, place_for(docs), registry, say=app.say, progress=progress)
    with knowledge:
        knowledge.check_filters(conditions)
        found = knowledge.search(query, limit, threshold=threshold, filters=conditions)
    if app.json:
        passages = [asdict(passage) for passage in found.passages]
        app.emit({"ok": True, "query": query, "confidence": round(found.confidence, 4), "passages": passages})
    elif not found.passages:
        app.write(t("search.none", confidence=f"{100 * found.confidence:.0f}"))
        if found.candidates:
            app.say(t("search.none.hint"))
    else:
        for passage in found.passages:
            head = " · ".join(part for part in (passage.source, passage.heading or passage.title) if part)
            place = place_text(passage)
            text = " ".join(passage.text.split())
            app.write(f"[{passage.number}] {head}\n    {place}\n    {text[:300]}{'…' if len(text) > 300 else ''}")
