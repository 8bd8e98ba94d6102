"""`luna experts MODEL`: which experts work, and what an emotion changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.cli.app import App
from luna_kernel.cli.options import command, json_option, option, plugins_option

import click  # isort: skip

if TYPE_CHECKING:
    from .report import LayerReport

t = catalogue(__package__)


@command(help=lambda: t("experts.help"))
@click.argument("model", metavar="MODEL")
@option("--data", multiple=True, metavar="PATH", help=lambda: t("experts.data"))
@option("--texts", type=click.IntRange(1), default=32, show_default=True, help=lambda: t("experts.texts"))
@option("--length", type=click.IntRange(2), default=128, show_default=True, help=lambda: t("experts.length"))
@plugins_option
@json_option
@click.pass_obj
def experts(app: App, model: str, data: tuple[str, ...], texts: int, length: int) -> None:
    """See the catalogue: `experts.help`."""
    from luna_kernel.base.threads import share_cores
    from luna_kernel.chat.models import find_model
    from luna_kernel.model.checkpoint import open_model

    share_cores()
    folder = find_model(model)
    opened = open_model(folder, selection=app.selection)
    from .report import report

    if opened.tokenizer is None:
        raise UsageError(t("experts.no_texts", paths=folder))
    rows, emotions, labels = _texts(opened, data, texts, min(length, opened.model.dims.max_positions))
    layers = report(opened.model, rows, emotions, labels)
    if not layers:
        raise UsageError(t("experts.none", name=Path(folder).name))
    tokens = sum(map(len, rows))
    if app.json:
        app.emit({"model": str(folder), "texts": len(rows), "tokens": tokens, "layers": [x.to_json() for x in layers]})
        return
    _print(app, layers, len(rows), tokens)


def _texts(opened: Any, data: tuple[str, ...], count: int, length: int) -> tuple[list[list[int]], list[Any], list[Any]]:
    """Ids of `count` records, evenly taken, each cut to `length` tokens, their emotions, and their labels."""
    from luna_kernel.chat.demo import corpus_files
    from luna_kernel.data.dialogue import DialogueTemplate
    from luna_kernel.train.corpus import Corpus

    template = DialogueTemplate(opened.tokenizer)
    rows: list[list[int]] = []
    emotions: list[Any] = []
    labels: list[Any] = []
    records = list(Corpus.find(list(data) or corpus_files(), opened.plugins.registry).records())
    for record in records[:: max(1, len(records) // count)][:count]:
        text = record.text
        ids = template.render(record.messages)[0] if text is None else template.render_text(text)[0]
        rows.append(ids[:length])
        emotions.append((record.condition or {}).get("emotion"))
        labels.append((record.condition or {}).get("emotion_label"))
    if not rows:
        raise UsageError(t("experts.no_texts", paths=", ".join(data)))
    return rows, emotions, labels


def _print(app: App, layers: list[LayerReport], texts: int, tokens: int) -> None:
    from luna_kernel.cli.tables import table

    from .emotions import EMOTIONS

    hears = any(layer.mutual_information is not None for layer in layers)
    observed = any(layer.observed is not None for layer in layers)
    heard = any(layer.heard is not None for layer in layers)
    further = {"mi": hears, "observed": observed, "head": heard}
    columns = ["place", "router", "load", *(name for name, shown in further.items() if shown)]
    lines = [[t(f"experts.column.{name}") for name in columns]]
    for layer in layers:
        cells = [layer.place, layer.router, " ".join(f"{100 * share:.0f}" for share in layer.load)]
        if hears:
            cells.append("-" if layer.mutual_information is None else number_text(layer.mutual_information, 4))
        if observed:
            seen = layer.observed
            figures = [] if seen is None else [seen.told, seen.untold, seen.shuffled]
            cells.append("{} ({}; {})".format(*(number_text(value, 4) for value in figures)) if figures else "-")
        if heard:
            cells.append("-" if layer.heard is None else f"{layer.heard.accuracy:.0%} / {layer.heard.texts}")
        lines.append(cells)
    app.write(table(lines))
    limit = math.log(min(len(EMOTIONS), max(len(layer.load) for layer in layers)))
    app.say(t("experts.note", texts=texts, tokens=tokens, limit=number_text(limit, 2)))
    if not hears:
        app.say(t("experts.deaf"))
