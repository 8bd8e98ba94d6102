"""The step `proactive`: at most one suggestion after an answer.

What was suggested and what was turned down stands in the turns' notes and nowhere else. So it is kept with the
conversation: one that is resumed goes on counting.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from luna_kernel.contracts.chat import Event, Notice, Passage, Step, Turn

from .config import ProactiveConfig
from .opportunities import find_opportunity, refuses
from .suggestion import Suggestion, related, suggest

if TYPE_CHECKING:
    from luna_kernel.chat.session import Session

NAME = "proactive"


class ProactiveStep(Step):
    """Suggests a next step where a message gives occasion to it."""

    config: ProactiveConfig

    def __init__(self, config: ProactiveConfig | None = None) -> None:
        super().__init__(config or ProactiveConfig())
        self.on = self.config.enabled
        self.forgiven = 0
        """Turns whose refusals no longer count: somebody has switched the suggestions on since."""

    def run(self, turn: Turn, session: Session) -> Iterator[Event]:
        """Yield the suggestion as a notice, and leave it in `turn.notes["proactive"]`."""
        notes: list[dict[str, Any]] = [past.notes.get(NAME, {}) for past in session.turns]
        if notes and "text" in notes[-1] and refuses(turn.query):
            turn.notes[NAME] = {"refused": True}
            return
        if not self.on or turn.stop_reason == "interrupted" or not self._may_speak(notes):
            return
        suggestion = self._suggest(turn, session)
        if suggestion is None or any(note.get("text") == suggestion.text for note in notes):
            return
        turn.notes[NAME] = {"kind": suggestion.kind, "text": suggestion.text, "source": suggestion.source}
        yield Notice(suggestion.text)

    def _may_speak(self, notes: list[dict[str, Any]]) -> bool:
        """Whether limit, pause and silence allow a suggestion, given the notes of the turns so far."""
        config = self.config
        made = [place for place, note in enumerate(notes) if "text" in note]
        refused = [place for place, note in enumerate(notes) if note.get("refused") and place >= self.forgiven]
        if len(made) >= config.limit or (made and len(notes) - made[-1] <= config.pause):
            return False
        return not refused or (config.silence is not None and len(notes) - refused[-1] > config.silence)

    def _suggest(self, turn: Turn, session: Session) -> Suggestion | None:
        before = [past.query for past in session.turns]
        opportunity = find_opportunity(turn.query, before, threshold=self.config.threshold)

        def search(query: str) -> list[Passage]:
            return [passage for passage in session.search(query, 3) if passage.score >= self.config.relevance]

        suggestion = None
        if opportunity is not None and opportunity.kind in self.config.kinds:
            suggestion = suggest(opportunity, turn, search if session.options.docs and session.options.rag else None)
        if suggestion is None and "related" in self.config.kinds:
            suggestion = related(turn)
        return suggestion
