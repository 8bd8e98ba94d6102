"""From generated ids to text that a person may see: whole characters, no control tokens, nothing after a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class IdStream(Protocol):
    """An incremental decoder, such as `Tokenizer.stream()`."""

    def push(self, id_: int) -> str:
        """The characters that this id completes."""

    def flush(self) -> str:
        """What was held back, at the end."""


class AnswerText:
    """Decodes ids one by one and ends at a stop string, which may be spread over several tokens.

    What could still become a stop string is held back until it is known not to.

    Args:
        stream: the decoder; control ids decode to nothing there.
        stop: the strings; empty ones are ignored.
    """

    def __init__(self, stream: IdStream, stop: Sequence[str] = ()) -> None:
        self._stream = stream
        self._stop = [text for text in stop if text]
        self._held = ""
        self.stopped = False
        """Whether a stop string was met; it is not part of the text."""

    def push(self, id_: int) -> str:
        """The text that is certain now; often empty."""
        if self.stopped:
            return ""
        self._held += self._stream.push(id_)
        found = [place for place in (self._held.find(text) for text in self._stop) if place >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = self._keep()
        text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return text

    def finish(self) -> str:
        """The rest that was held back."""
        if self.stopped:
            return ""
        text, self._held = self._held + self._stream.flush(), ""
        return text

    def _keep(self) -> int:
        """Length of the longest end of the held text with which a stop string could begin."""
        longest = 0
        for text in self._stop:
            for length in range(min(len(text) - 1, len(self._held)), longest, -1):
                if self._held.endswith(text[:length]):
                    longest = length
                    break
        return longest


def printable(text: str) -> str:
    """`text` without control characters, so that a document or an answer cannot steer the terminal.

    Newline and tab stay; escape sequences lose their first character and become harmless; so do the marks that turn
    the direction of writing.
    """
    return text.translate(_UNPRINTABLE)


_UNPRINTABLE = {
    code: None
    for code in (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    if chr(code) not in "\n\t"
}
