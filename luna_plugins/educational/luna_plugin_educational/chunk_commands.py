"""`/chunk-demo`, `/chunk-stats`, `/optimize-chunks`, `/chunk-size` and `/chunk-strategy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Command
from luna_kernel.contracts.data import Document

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)

_LEAST, _USUAL = 60, 900


class ChunkDemoCommand(Command):
    """Cut a text, or the documents, by every strategy."""

    def run(self, argument: str, session: Session) -> str:
        """Of the argument; without one, of the documents. A text of the argument gets a limit that cuts it.

        Raises:
            UsageError: neither text nor documents, or no strategy.
        """
        from .chunks import demo_page, document_chunks, first_of

        registry = session.plugins.registry
        if not registry.of_kind("chunker"):
            registry.get("chunker", "sentence")
        if not argument:
            return demo_page(registry, [document for document, _ in first_of(document_chunks(session))], _USUAL)
        size = min(_USUAL, max(_LEAST, len(argument) // 4))
        return demo_page(registry, [Document(argument, "-")], size)


class ChunkStatsCommand(Command):
    """Show how good the chunks of the documents are."""

    def run(self, argument: str, session: Session) -> str:
        """The figures of the chunks that are searched now."""
        from .chunks import stats_page

        return stats_page(session)


class OptimizeCommand(Command):
    """Try changes of the chunks, and show those that help."""

    def run(self, argument: str, session: Session) -> str:
        """Every change is tried on the documents; nothing is changed."""
        from .chunks import optimize_page

        return optimize_page(session)


class ChunkSizeCommand(Command):
    """Cut the documents anew with another limit."""

    def run(self, argument: str, session: Session) -> str:
        """A whole number in what the strategy counts.

        Raises:
            UsageError: no number, one that the strategy refuses, or no documents.
        """
        from .chunks import changed_node, rag_step

        rag_step(session)
        if not argument.isdigit():
            raise UsageError(t("size.usage", word=argument[:40]))
        return _recut(session, changed_node(session, size=int(argument)))


class ChunkStrategyCommand(Command):
    """Cut the documents anew in another way."""

    def run(self, argument: str, session: Session) -> str:
        """The name of a chunker; fields of its configuration may follow, such as `min_size=150`.

        Raises:
            UsageError: an unknown name, or no documents.
        """
        from .chunks import changed_node, rag_step

        rag_step(session)
        name, *fields = argument.split() or [""]
        if not name or not all("=" in field for field in fields):
            raise UsageError(t("strategy.usage", names=", ".join(self.complete("", session))))
        return _recut(session, changed_node(session, name=name, fields=fields))

    def complete(self, prefix: str, session: Session) -> list[str]:
        """Names of chunkers."""
        names = sorted(component.name for component in session.plugins.registry.of_kind("chunker"))
        return [name for name in names if name.startswith(prefix)]


def _recut(session: Session, node: dict[str, Any]) -> str:
    from .chunks import rag_step

    step = rag_step(session)
    before = step.knowledge.store.counts()["chunks"]
    summary = step.recut(node, session)
    settings = ", ".join(f"{key}={value}" for key, value in node.items() if key != "name")
    return t("recut.done", strategy=node["name"], settings=settings, before=before, after=summary.chunks)
