"""The step `educational`: after each answer, how it came about, from the model's own numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.contracts.chat import Event, Notice, Painted, Step, Turn

from .config import EducationalConfig

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

    from .reading import Reading

t = catalogue(__package__)

NAME = "educational"


class EducationalStep(Step):
    """Explains an answer where `session.options.educational` is on."""

    config: EducationalConfig

    def __init__(self, config: EducationalConfig | None = None) -> None:
        super().__init__(config or EducationalConfig())
        self._on = False

    def open(self, session: Session) -> None:
        """Take up the configuration's defaults."""
        session.options.educational = session.options.educational or self.config.enabled
        session.options.show_tensors = session.options.show_tensors or self.config.show_tensors
        self._on = session.options.educational

    def describe(self) -> str | None:
        """That explanations are on, and where to go on from there."""
        return t("state.on") if self._on else None

    def run(self, turn: Turn, session: Session) -> Iterator[Event]:
        """Yield the explanation as a notice."""
        if not session.options.educational or turn.stop_reason == "interrupted":
            return
        from .explain import quoted_page
        from .reading import reading

        number = len(session.turns) + 1
        if not isinstance(session.generator, LunaGenerator):
            yield Notice(t("no_model", name=session.generator.name or "-"))
            return
        found = reading(session.generator, turn, number)
        yield Notice(
            quoted_page(turn, number) if found is None else summary(found, tensors=session.options.show_tensors)
        )


def summary(reading: Reading, *, tensors: bool, columns: int | None = None) -> Painted:
    """A few lines on an answer; with `tensors`, the shape and size of what each layer made."""
    from .choosing import choices
    from .explain import stream_rows
    from .page import Page
    from .tokens import styled

    seen = reading.trace()
    tokenizer = reading.generator.tokenizer
    page = Page(columns)
    page.head(t("summary.title"))
    page.prose(t("summary.read", prompt=len(reading.prompt), cached=reading.turn.usage.get("cached_tokens", 0)))
    page.flow(styled(tokenizer, tokenizer.encode(reading.turn.query)[:48]))
    found = [choice for choice in choices(reading, seen, 32) if choice.id is not None]
    if found:
        page.prose(t("summary.chose", count=len(reading.answer)))
        page.flow(
            [
                (f"{text} {100 * float(choice.before[choice.id]):.0f}%", style)
                for (text, style), choice in zip(
                    styled(tokenizer, [c.id for c in found if c.id is not None]), found, strict=True
                )
            ]
        )
        first = sum(choice.rank == 1 for choice in found)
        page.prose(t("summary.first", first=first, count=len(found)))
    if tensors:
        page.head(t("summary.tensors"))
        length, width = seen.embeddings.shape
        norm = float(seen.embeddings.float().norm(dim=-1).mean())
        page.prose(t("summary.embeddings", tokens=length, width=width, norm=number_text(norm, 2)))
        page.rows(stream_rows(seen))
        logits = (length, reading.model.head_weight.shape[0])
        page.prose(t("summary.logits", tokens=logits[0], vocab=logits[1]))
    page.prose(t("summary.more"))
    return page.painted()
