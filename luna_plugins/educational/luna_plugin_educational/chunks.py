"""Chunks to look at: every strategy on one text, the documents' own chunks, and changes that were tried.

The strategies are the `chunker` components that are there; what judges chunks is the chunking plugin's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import LunaError, UsageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.contracts.chat import Painted
from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.data.sentences import sentences

from .page import TOKEN_STYLES, Page, clip

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session
    from luna_kernel.plugins.registry import Component, Registry

t = catalogue(__package__)

_SHOWN = 5
_SAMPLE = 50_000
LIMITS = ("max_size", "max_chars")
"""What chunkers call their limit."""
LEAST = {"max_size": "min_size", "max_chars": "min_chars"}

Pairs = list[tuple[Document, list[Chunk]]]


def rag_step(session: Session) -> Any:
    """The step that holds the documents.

    Raises:
        UsageError: this conversation has none.
    """
    step: Any = session.step("rag")
    if step is None:
        session.plugins.registry.get("step", "rag")  # says which package brings it, where it is off
    if step is None or getattr(step, "knowledge", None) is None:
        raise UsageError(t("chunks.no_docs"), hint=t("chunks.no_docs.hint"))
    return step


def document_chunks(session: Session) -> Pairs:
    """The documents with their chunks as they are searched.

    Raises:
        UsageError: this conversation has none.
    """
    return list(rag_step(session).knowledge.store.whole_documents())


def node_of(component: Component, size: int | None = None) -> dict[str, Any]:
    """A chunker's node with a limit of `size`, and everything else so that it fits."""
    node: dict[str, Any] = {"name": component.name}
    config = component.load_config()
    names = {} if config is None else config.model_fields
    limit = next((name for name in LIMITS if name in names), None)
    if size is None or limit is None:
        return node
    node[limit] = size
    if LEAST[limit] in names:
        node[LEAST[limit]] = min(200, size // 4)
    if "overlap" in names:
        node["overlap"] = size // 8
    return node


def cut(component: Component, node: dict[str, Any], documents: Sequence[Document]) -> Pairs:
    """The documents, cut.

    Raises:
        ConfigError: the node does not validate.
    """
    chunker = component.load()(component.make_config(node, where=f"chunker.{component.name}"))
    return [(document, chunker.chunk(document)) for document in documents]


def demo_page(registry: Registry, documents: Sequence[Document], size: int, columns: int | None = None) -> Painted:
    """The first document cut by every strategy, all documents counted."""
    page = Page(columns)
    length = sum(len(document.text) for document in documents)
    page.head(t("demo.title", documents=len(documents), length=length, size=size))
    page.prose(t("demo.text"))
    rows = [[t(f"column.{name}") for name in ("strategy", "chunks", "smallest", "mean", "largest", "at_sentences")]]
    drawings = []
    for component in sorted(registry.of_kind("chunker"), key=lambda one: one.name):
        try:
            pairs = cut(component, node_of(component, size), documents)
        except LunaError as error:
            rows.append([component.name, "-", "-", "-", "-", clip(error.text, 40)])
            continue
        rows.append([component.name, *plain_numbers(pairs)])
        drawings.append((component.name, pairs[0] if pairs else (Document("", ""), [])))
    page.rows(rows)
    for name, (document, chunks) in drawings:
        page.head(name)
        for number, chunk in enumerate(chunks[:_SHOWN]):
            place = f"  {number + 1:3d} [{chunk.start}:{chunk.end}] "
            shown = clip(document.text[chunk.start : chunk.end].strip(), page.columns - len(place) - 1)
            page.line(place, (shown, TOKEN_STYLES[number % len(TOKEN_STYLES)]))
        if len(chunks) > _SHOWN:
            page.prose(t("more", count=len(chunks) - _SHOWN))
    return page.painted()


def plain_numbers(pairs: Pairs) -> list[str]:
    """Number, smallest, mean and largest size in characters, and the share of cuts that are ends of sentences."""
    sizes = [len(chunk.text) for _, chunks in pairs for chunk in chunks]
    cuts = good = 0
    for document, chunks in pairs:
        ends = {end for _, end in sentences(document.text)}
        places = {chunk.end for chunk in chunks if chunk.end < len(document.text)}
        cuts, good = cuts + len(places), good + len(places & ends)
    if not sizes:
        return ["0", "-", "-", "-", "-"]
    share = 100 * good / cuts if cuts else 100
    return [str(len(sizes)), str(min(sizes)), f"{sum(sizes) / len(sizes):.0f}", str(max(sizes)), f"{share:.0f} %"]


def stats_page(session: Session, columns: int | None = None) -> Painted:
    """How good the chunks are that this conversation searches.

    Raises:
        UsageError: it has no documents.
    """
    node = rag_step(session).knowledge.config.chunker
    pairs = document_chunks(session)
    page = Page(columns)
    settings = ", ".join(f"{key}={value}" for key, value in node.items() if key != "name") or t("stats.defaults")
    page.head(t("stats.title", documents=len(pairs), strategy=node["name"], settings=settings))
    rows = [[t(f"column.{name}") for name in ("chunks", "smallest", "mean", "largest", "at_sentences")]]
    page.rows([*rows, plain_numbers(pairs)])
    if session.plugins.registry.find("chunker", "sentence") is None:
        page.prose(t("stats.no_judge"))
        return page.painted()
    from luna_plugin_chunking.quality import quality

    shown = first_of(pairs)
    report = quality(shown)
    if len(shown) < len(pairs):
        page.prose(t("sampled", shown=len(shown), count=len(pairs)))
    page.rows(
        [
            [t(f"quality.{key}"), number_text(getattr(report, key), 3)]
            for key in ("inside", "across", "spread", "density")
        ]
    )
    page.prose(t("quality.text"))
    return page.painted()


def optimize_page(session: Session, columns: int | None = None) -> Painted:
    """Changes that the figures give reason to, tried on the documents, and kept if they help.

    Raises:
        UsageError: no documents, or no chunking plugin.
    """
    knowledge = rag_step(session).knowledge
    registry = session.plugins.registry
    registry.get("chunker", "sentence")
    from luna_plugin_chunking.quality import candidates, helps, quality

    pairs = first_of(document_chunks(session))
    strategy = knowledge.config.chunker["name"]
    settings = _limits(registry.get("chunker", strategy), knowledge.config.chunker)
    report = quality(pairs)
    page = Page(columns)
    page.head(t("optimize.title", documents=len(pairs)))
    found = 0
    for measure, changes in candidates(report, strategy, settings):
        component = registry.get("chunker", changes["strategy"])
        fields = {key: value for key, value in changes.items() if key != "strategy"}
        node = {**node_of(component, settings["max_size"]), **fields}
        gain = helps(measure, report, quality(cut(component, node, [document for document, _ in pairs])))
        if gain is None:
            page.prose(t("optimize.no_gain", strategy=component.name, measure=t(f"quality.{measure}")))
            continue
        found += 1
        numbers = {"before": number_text(gain.before, 3), "after": number_text(gain.after, 3)}
        command = " ".join([component.name, *(f"{key}={str(value).lower()}" for key, value in fields.items())])
        page.prose(t("optimize.gain", command=command, measure=t(f"quality.{measure}"), **numbers))
    if not found:
        page.prose(t("optimize.none"))
    return page.painted()


def _limits(component: Component, node: dict[str, Any]) -> dict[str, Any]:
    config = component.make_config(node)
    limit = next((name for name in LIMITS if hasattr(config, name)), None)
    most = getattr(config, limit) if limit is not None else 900
    return {"max_size": most, "min_size": getattr(config, LEAST[limit], 0) if limit is not None else 0}


def changed_node(
    session: Session, *, name: str | None = None, size: int | None = None, fields: Sequence[str] = ()
) -> dict[str, Any]:
    """The present chunker's node with another name or another limit.

    Args:
        session: the conversation.
        name: the other chunker; None: the present one.
        size: the other limit; None: the present one.
        fields: `min_size=150` and the like, which go before what would be chosen.

    Raises:
        UsageError: no documents, or no such strategy; names the nearest.
    """
    registry = session.plugins.registry
    node = dict(rag_step(session).knowledge.config.chunker)
    present = registry.get("chunker", node["name"])
    component = present if name is None else registry.get("chunker", name)
    limit = size if size is not None else _limits(present, node)["max_size"]
    given = dict(field.split("=", 1) for field in fields)
    return {**node_of(component, limit), **{key: _value(text) for key, text in given.items()}}


def _value(text: str) -> Any:
    return int(text) if text.isdigit() else {"true": True, "false": False}.get(text.lower(), text)


def first_of(pairs: Pairs) -> Pairs:
    """The first documents, up to `_SAMPLE` characters together, one at least: so many are judged in a moment."""
    kept: Pairs = []
    size = 0
    for document, chunks in pairs:
        size += len(document.text)
        if kept and size > _SAMPLE:
            break
        kept.append((document, chunks))
    return kept
