"""`/rag` and `/sources`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.commands import parse_switch
from luna_kernel.contracts.chat import Command, Passage, Turn

from .step import RagStep, skipped_lines

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)


class RagCommand(Command):
    """Search the documents or not: /rag on|off; /rag update reads what has changed."""

    def run(self, argument: str, session: Session) -> str:
        """Switch, update, or tell the state."""
        step = session.step("rag")
        knowledge = step.knowledge if isinstance(step, RagStep) else None
        if not isinstance(step, RagStep) or knowledge is None:
            raise UsageError(t("rag.no_docs"), hint=t("rag.no_docs.hint"))
        if argument.strip().lower() in ("update", "atualizar", "atualiza"):
            summary = step.update()
            counts = {
                "added": len(summary.added), "updated": len(summary.updated), "removed": len(summary.removed),
                "unchanged": summary.unchanged,
            }  # fmt: skip
            return "\n".join([t("index.done", **counts), *skipped_lines(summary)])
        if argument:
            session.options.rag = parse_switch(argument, "rag")
        counts = knowledge.store.counts()
        return t("rag.on" if session.options.rag else "rag.off", documents=counts["documents"], chunks=counts["chunks"])

    def complete(self, prefix: str, session: Session) -> list[str]:
        """On, off, update."""
        return [word for word in ("on", "off", "update") if word.startswith(prefix)]


class SourcesCommand(Command):
    """Show what the last answer rests on."""

    def run(self, argument: str, session: Session) -> str:
        """The passages of the last turn, those that the answer cites first; `/sources 2` shows only number 2."""
        turn = next((turn for turn in reversed(session.turns) if turn.searched), None)
        if turn is None:
            return t("sources.none")
        if not turn.passages:
            return t("sources.not_found", query=turn.query)
        passages = turn.passages
        if argument:
            passages = [passage for passage in passages if str(passage.number) == argument.strip("[] ")]
            if not passages:
                raise UsageError(t("sources.unknown", number=argument[:20], count=len(turn.passages)))
        return "\n\n".join(_show(passage, turn) for passage in passages)

    def complete(self, prefix: str, session: Session) -> list[str]:
        """The numbers of the last passages."""
        passages = session.turns[-1].passages if session.turns else []
        return [str(passage.number) for passage in passages if str(passage.number).startswith(prefix)]


def place_text(passage: Passage) -> str:
    """`linha 30, caracteres 1421–1644, relevância 33 %`, or the page where there are pages."""
    where = t("sources.page", page=passage.page) if passage.page else t("sources.line", line=passage.line or "?")
    fields = {"start": passage.start, "end": passage.end, "score": f"{100 * passage.score:.0f}"}
    return t("sources.place", where=where, **fields)


def _show(passage: Passage, turn: Turn) -> str:
    """Head, place and text of a passage; what the answer quotes from it stands between « and »."""
    head = f"[{passage.number}] {passage.source}"
    if passage.title and not passage.heading.startswith(passage.title):
        head += f" · {passage.title}"
    if passage.heading:
        head += f" · {passage.heading}"
    place = place_text(passage)
    text = passage.text
    quoted = [item for item in turn.citations if item.number == passage.number]
    for quote in sorted(quoted, key=lambda item: -item.start):
        start, end = quote.start - passage.start, quote.end - passage.start
        if 0 <= start < end <= len(passage.text):
            text = f"{text[:start]}«{text[start:end]}»{text[end:]}"
    indented = "\n".join(f"    {line}".rstrip() for line in text.split("\n"))
    return f"{head}\n    {place}\n{indented}"
