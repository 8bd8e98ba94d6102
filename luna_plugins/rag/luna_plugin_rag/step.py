"""The chat step: search the documents, and hand on numbered passages.

Passages are data. They go into the turn's `passages` and nowhere else: a generator that grounds itself puts them into
the user's message as plain text, the extractive one quotes them; nothing in them becomes a turn, a system text or a
command.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.chat.small_talk import Talk, kind_of_talk
from luna_kernel.contracts.chat import Event, Notice, Passage, Step, Turn
from luna_kernel.contracts.data import Message
from luna_kernel.data.portuguese import STOP_WORDS, word_set, words

from .config import RagConfig
from .filling import Progress, Summary
from .filters import Condition, parse_filters
from .knowledge_base import KnowledgeBase
from .naming import place_for
from .opening import open_filled
from .search import Found
from .stores import is_knowledge_base

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

t = catalogue(__package__)

_LEANING = word_set("ele ela eles elas dele dela deles delas isso isto disso nisso nele nela este esta esse essa la")

_TOGETHER = 0.75
"""What is found with the question before is taken if its confidence is at least this share of what a leaning question
finds alone: so few words are easily found together, and say little."""


class RagStep(Step):
    """Searches the documents of `session.options.docs`; without any it does nothing."""

    config: RagConfig

    def __init__(self, config: RagConfig | None = None) -> None:
        super().__init__(config or RagConfig())
        self.knowledge: KnowledgeBase | None = None
        self._filters = parse_filters(self.config.filters)
        self._session: Session | None = None
        self._paths: list[Path] = []
        self._summary: Summary | None = None
        self._remarks: list[str] = []

    def open(self, session: Session) -> None:
        """Open the knowledge base of the session's documents, and bring it up to date.

        Raises:
            LunaError: see `KnowledgeBase` and `KnowledgeBase.sync`.
        """
        self._session = session
        self._paths = [Path(path) for path in session.options.docs]
        if not self._paths:
            return
        registry = session.plugins.registry
        if len(self._paths) == 1 and is_knowledge_base(self._paths[0]):
            self.knowledge = KnowledgeBase.open(
                self._paths[0], registry, self.config.knowledge, say=self._remarks.append
            )
            self.knowledge.warm_up()
            return
        self._open(place_for(self._paths), registry)

    def _open(self, folder: Path, registry: Any) -> None:
        with show_progress() as progress:
            self.knowledge, self._summary = open_filled(
                self._paths, folder, registry, self.config.knowledge, say=self._remarks.append, progress=progress
            )

    def update(self) -> Summary:
        """Read what has changed in the documents.

        Raises:
            UsageError: there are no documents, or they are a knowledge base that is updated by `luna index`.
        """
        if self.knowledge is None or is_knowledge_base(self._paths[0]):
            raise UsageError(t("rag.no_folder"), hint=t("rag.no_docs.hint"))
        with show_progress() as progress:
            self._summary = self.knowledge.sync(self._paths, progress=progress)
        return self._summary

    def recut(self, chunker: Mapping[str, Any], session: Session) -> Summary:
        """Cut the documents anew with another chunker, for the rest of this conversation.

        The next conversation over them cuts as its own settings say. Where the new chunker fails, the former stays.

        Args:
            chunker: its node, as `KnowledgeConfig.chunker`.

        Raises:
            UsageError: there are no documents, or they are a knowledge base that is updated by `luna index`.
            ConfigError: the node does not validate.
        """
        if self.knowledge is None or is_knowledge_base(self._paths[0]):
            raise UsageError(t("rag.no_folder"), hint=t("rag.no_docs.hint"))
        registry = session.plugins.registry
        before, folder = self.config, self.knowledge.folder
        component = registry.get("chunker", chunker["name"], where="knowledge.chunker")
        component.make_config(chunker, where="knowledge.chunker")
        knowledge = before.knowledge.model_copy(update={"chunker": dict(chunker)})
        self.close()
        try:
            self.config = before.model_copy(update={"knowledge": knowledge})
            self._open(folder, registry)
        except BaseException:
            self.config = before
            self._open(folder, registry)
            raise
        assert self._summary is not None
        return self._summary

    def describe(self) -> str | None:
        """What is searched, and what could not be read."""
        if self.knowledge is None:
            return None
        counts = self.knowledge.store.counts()
        where = ", ".join(str(path) for path in self._paths)
        lines = [t("rag.describe", where=where, documents=counts["documents"], chunks=counts["chunks"])]
        if self._summary is not None:
            lines += skipped_lines(self._summary)
        return "\n".join([*self._remarks, *lines])

    def run(self, turn: Turn, session: Session) -> Iterator[Event]:
        """Fill `turn.passages`, unless the search is off or the turn is small talk.

        Raises:
            UsageError: a condition of the session's cannot be read, or is about what is known of no passage.
        """
        if self.knowledge is None:
            return
        self.knowledge.check_filters(parse_filters(session.options.filters))
        if not session.options.rag:
            turn.notes["rag"] = {"state": "off"}
            return
        if kind_of_talk(turn.query) is Talk.SMALL:
            turn.notes["rag"] = {"state": "small_talk"}
            return
        begin = time.perf_counter()
        self._remarks.clear()
        found, asked = self._search(turn, session)
        turn.searched = True
        turn.passages = self._fitting(found.passages, turn, session)
        turn.timings["retrieve"] = time.perf_counter() - begin
        turn.notes["rag"] = {
            "state": "found" if turn.passages else "not_found",
            "confidence": round(found.confidence, 4),
            "threshold": self.config.knowledge.threshold,
            "candidates": found.candidates,
            "left_out": len(found.passages) - len(turn.passages),
        }
        if asked != turn.query:
            turn.notes["rag"]["asked"] = asked
        for remark in self._remarks:
            yield Notice(remark)
        self._remarks.clear()

    def _conditions(self) -> tuple[Condition, ...]:
        """Those of the configuration and those of the session."""
        asked = () if self._session is None else self._session.options.filters
        return (*self._filters, *parse_filters(asked))

    def search(self, query: str, k: int) -> list[Passage]:
        """What the documents say about `query`; see `KnowledgeBase.search`."""
        return (
            self.knowledge.search(query, k, filters=self._conditions()).passages if self.knowledge is not None else []
        )

    def _search(self, turn: Turn, session: Session) -> tuple[Found, str]:
        """What was found, and for which words: the question's, or those of the one before it and its own."""
        assert self.knowledge is not None
        found = self.knowledge.search(turn.query, self.config.passages, filters=self._conditions())
        earlier = [past for past in session.turns if past.searched]
        if self.config.follow_up and earlier and leans(turn.query):
            both = f"{earlier[-1].query} {turn.query}"
            with_earlier = self.knowledge.search(both, self.config.passages, filters=self._conditions())
            if with_earlier.confidence > _TOGETHER * found.confidence:
                return with_earlier, both
        return found, turn.query

    def _fitting(self, passages: list[Passage], turn: Turn, session: Session) -> list[Passage]:
        """The passages that fit into a generator which reads them; one that only quotes takes all."""
        generator = session.generator
        if not generator.grounds_itself:
            return passages
        room = self.config.budget * (generator.context_length - turn.sampling.max_tokens)
        kept: list[Passage] = []
        for passage in passages:
            room -= generator.count_tokens([Message("user", passage.text)])
            if room < 0:
                break
            kept.append(passage)
        return kept

    def close(self) -> None:
        """Close the knowledge base."""
        if self.knowledge is not None:
            self.knowledge.close()
            self.knowledge = None


def leans(query: str) -> bool:
    """Whether a question can only be understood with the one before: `e quanto custa?`, `onde fica ela?`."""
    said = words(query)
    content = [word for word in said if word not in STOP_WORDS]
    return bool(said) and (len(content) <= 1 or said[0] in ("e", "mas") or bool(_LEANING & set(said)))


def skipped_lines(summary: Summary, limit: int = 3) -> list[str]:
    """What could not be read and why, a few lines."""
    lines = [t("rag.skipped", source=source, reason=reason) for source, reason in summary.skipped.items()]
    for source, why in summary.partly.items():
        more = [t("docs.more", count=len(why) - 2).strip()] if len(why) > 2 else []
        lines.append(t("rag.partly", source=source, reason="; ".join([*why[:2], *more])))
    if len(lines) > limit:
        return [*lines[:limit], t("docs.more", count=len(lines) - limit).strip()]
    return lines


@contextlib.contextmanager
def show_progress() -> Iterator[Progress | None]:
    """A progress bar on stderr while files are read and chunks indexed; none where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(t("index.reading"), total=None)

        def show(stage: str, done: int, total: int, what: str) -> None:
            text = f"{t(f'index.{stage}')} {what[-40:]}".replace("[", r"\[")
            bar.update(task, completed=done, total=total, description=text)

        yield show
