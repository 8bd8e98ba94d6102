"""The words of a suggestion, for an opportunity and with what the documents say about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Passage, Turn
from luna_kernel.data.portuguese import fold

from .opportunities import Opportunity

t = catalogue(__package__)

Search = Callable[[str], list[Passage]]

_BETWEEN = re.compile(r"\bentre (?P<first>[^,.;?!]{2,40}?) e (?P<second>[^,.;?!]{2,40})", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:[oa]s?|uma?s?|d[oae]s?|sobre|se|que) ", re.IGNORECASE)
_TOPIC = 80
"""Characters of the longest topic that a suggestion repeats."""
_SHOWN = 160
"""Characters of a passage that a suggestion shows."""


@dataclass(frozen=True)
class Suggestion:
    """What is suggested."""

    kind: str
    text: str
    source: str = ""
    """The document that it names."""


def suggest(opportunity: Opportunity, turn: Turn, search: Search | None) -> Suggestion | None:
    """The suggestion for an opportunity, or None where there is nothing to say.

    Args:
        opportunity: what the message gives occasion to.
        turn: the turn with its answer and passages.
        search: finds relevant passages of the documents; None where there are no documents.
    """
    kind = opportunity.kind
    if kind == "contradiction":
        return Suggestion(kind, t("contradiction", earlier=opportunity.evidence, now=turn.query.strip(" .!")))
    if search is not None and kind in ("searching", "help", "indecision"):
        wanted = topic_after(opportunity.evidence, turn.query) or turn.query
        fresh = [passage for passage in search(wanted) if not _cited(passage, turn)]
        if fresh:
            return _from_document(kind, fresh[0])
        if turn.citations or kind == "searching":
            return None  # the answer has quoted what there is, or nothing is there
    if kind == "indecision":
        pair = _BETWEEN.search(turn.query)
        if pair is not None:
            return Suggestion(kind, t("indecision.pair", first=_bare(pair["first"]), second=_bare(pair["second"])))
    topic = topic_after(opportunity.evidence, turn.query) if kind in ("extension", "practical") else ""
    return Suggestion(kind, t(f"{kind}.topic", topic=topic) if topic else t(kind))


def related(turn: Turn) -> Suggestion | None:
    """Another section of a document that the answer cites, among the passages found; None if there is none."""
    cited = {passage.heading for passage in turn.passages if _cited(passage, turn)}
    for passage in turn.passages:
        if turn.citations and passage.heading and passage.heading not in cited and not _cited(passage, turn):
            heading = passage.heading.rpartition(" › ")[2]
            text = t("related", document=passage.title or passage.source, heading=heading)
            return Suggestion("related", text, passage.source)
    return None


def topic_after(evidence: str, text: str) -> str:
    """What follows the words of the cue in `text`, as it was written: the thing that somebody asks about."""
    folded = fold(text)
    place = folded.find(evidence)
    if not evidence or place < 0 or len(folded) != len(text):
        return ""
    topic = _bare(text[place + len(evidence) :].strip(" ?!.…,;:"))
    return topic if 2 <= len(topic) <= _TOPIC and "," not in topic else ""


def _bare(words: str) -> str:
    """Without the article or preposition at its head, and marks at its ends."""
    return _ARTICLE.sub("", words.strip(" ?!.…,;:"))


def _cited(passage: Passage, turn: Turn) -> bool:
    return any(
        citation.source == passage.source and citation.start < passage.end and passage.start < citation.end
        for citation in turn.citations
    )


def _from_document(kind: str, passage: Passage) -> Suggestion:
    words = " ".join(passage.text.split())
    shown = words if len(words) <= _SHOWN else words[:_SHOWN].rsplit(" ", 1)[0] + " …"
    fields = {"document": passage.title or passage.source, "line": passage.line, "text": shown}
    return Suggestion(kind, t("found" if passage.line else "found.no_line", **fields), passage.source)
