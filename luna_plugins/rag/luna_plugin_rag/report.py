"""An analysis for people: lines for the terminal, and a Markdown report with drawings."""

from __future__ import annotations

from pathlib import Path

from luna_kernel.base import durable
from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.cli.tables import table

from .analysis import Analysis
from .drawing import histogram, horizontal_bars

t = catalogue(__package__)

REPORT, TOPICS, LENGTHS, RECALL = "report.md", "topics.svg", "lengths.svg", "recall.svg"
_SHOWN = 20


def sections(found: Analysis) -> list[tuple[str, list[str]]]:
    """(title, lines) of each part."""
    parts = [(t("analyze.topics", topics=len(found.topics)), _topic_lines(found))]
    if found.questions is not None:
        parts.append((_gaps_title(found), _gap_lines(found)))
    parts.append(
        (t("analyze.recall"), _table_lines(_recall_rows(found)) if found.recalls else [t("analyze.too_short")])
    )
    parts.append((t("analyze.duplicates", groups=len(found.duplicates)), _duplicate_lines(found)))
    return parts


def _table_lines(rows: list[list[str]]) -> list[str]:
    return table(rows).split("\n")


def _gaps_title(found: Analysis) -> str:
    return t("analyze.gaps", gaps=len(found.gaps), questions=found.questions, threshold=f"{100 * found.threshold:.0f}")


def _topic_lines(found: Analysis) -> list[str]:
    rows = [
        [f"{100 * topic.share:.0f} %", str(len(topic.chunks)), str(topic.sources), number_text(topic.cohesion, 2),
         ", ".join(topic.words)]
        for topic in found.topics
    ]  # fmt: skip
    return _table_lines([[t(f"analyze.{key}") for key in ("share", "chunks", "files", "cohesion", "words")], *rows])


def _gap_lines(found: Analysis) -> list[str]:
    lines = []
    for gap in sorted(found.gaps, key=lambda gap: gap.confidence)[:_SHOWN]:
        line = f"{100 * gap.confidence:.0f} %  {gap.question}"
        if gap.unknown:
            line += t("analyze.unknown", words=", ".join(gap.unknown))
        lines.append(line)
    if len(found.gaps) > _SHOWN:
        lines.append(t("docs.more", count=len(found.gaps) - _SHOWN).strip())
    if found.answered_foreign:
        lines.append(t("analyze.foreign", count=len(found.answered_foreign)))
        lines += [f"  {question}" for question in found.answered_foreign[:_SHOWN]]
    return lines or [t("analyze.no_gaps")]


def _recall_rows(found: Analysis) -> list[list[str]]:
    head = [t("analyze.retriever"), t("analyze.asked"), t("analyze.number"), "recall@1", "recall@5", "recall@10", "MRR"]
    rows = [
        [row.retriever, t(f"analyze.asked.{row.asked}"), str(row.count),
         *(f"{number_text(100 * value, 1)} %" for value in (row.at_1, row.at_5, row.at_10)), number_text(row.mrr, 3)]
        for row in found.recalls
    ]  # fmt: skip
    return [head, *rows]


def _duplicate_lines(found: Analysis) -> list[str]:
    if not found.duplicates:
        return [t("analyze.no_duplicates")]
    lines = [t("analyze.repeated", share=number_text(100 * found.repeated, 1))]
    for group in found.duplicates[:_SHOWN]:
        where = " | ".join(found.places[number] for number in group.chunks[:4])
        more = t("docs.more", count=len(group.chunks) - 4) if len(group.chunks) > 4 else ""
        lines.append(f"{100 * group.jaccard:.0f} %  {where}{more}")
    return lines


def write_report(folder: Path, found: Analysis) -> None:
    """Write `report.md` and its drawings into `folder`, which is made if missing."""
    topics = [(", ".join(item.words[:4]), item.share, f"{100 * item.share:.0f} %") for item in found.topics]
    recalls = [
        (f"{row.retriever}, {t(f'analyze.asked.{row.asked}')}", row.at_5, f"{100 * row.at_5:.0f} %")
        for row in found.recalls
    ]
    durable.make_folder(folder)
    durable.write_text(folder / TOPICS, horizontal_bars(t("analyze.draw.topics"), topics))
    durable.write_text(folder / LENGTHS, histogram(t("analyze.draw.lengths"), t("analyze.characters"), found.lengths))
    durable.write_text(folder / RECALL, horizontal_bars(t("analyze.draw.recall"), recalls, full=1.0))
    lines = [f"# {t('analyze.title')}", "", t("analyze.of", folder=found.folder, chunks=found.chunks), ""]
    for number, (title, content) in enumerate(sections(found)):
        lines += [f"## {title}", ""]
        if number == 0:
            lines += [f"![{t('analyze.draw.topics')}]({TOPICS})", "", *_markdown_table(_topic_rows(found)), ""]
        elif title == t("analyze.recall") and found.recalls:
            lines += [f"![{t('analyze.draw.recall')}]({RECALL})", "", *_markdown_table(_recall_rows(found)), ""]
        else:
            lines += [*(f"- {_escaped(line.strip())}" for line in content), ""]
    lines += [f"![{t('analyze.draw.lengths')}]({LENGTHS})", ""]
    durable.write_text(folder / REPORT, "\n".join(lines))


def _topic_rows(found: Analysis) -> list[list[str]]:
    head = [t(f"analyze.{key}") for key in ("share", "chunks", "files", "cohesion", "words", "example")]
    rows = [
        [f"{100 * topic.share:.0f} %", str(len(topic.chunks)), str(topic.sources), number_text(topic.cohesion, 2),
         ", ".join(topic.words), topic.example]
        for topic in found.topics
    ]  # fmt: skip
    return [head, *rows]


def _markdown_table(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows]
    return [lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]


def _escaped(text: str) -> str:
    """A document's text without power over the report: no tables, links, images, code or HTML of its own."""
    return "".join(f"\\{character}" if character in "\\|[]<>`*_#!" else character for character in text)
