"""From generated ids to text for people: whole characters, no control tokens, nothing after a stop string."""

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
        from luna_kernel.model.generation import StopMatcher

        self._stream = stream
        self._stop = StopMatcher(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met; it is not part of the text."""
        return self._stop.stopped

    def push(self, id_: int) -> str:
        """The text that is certain now; often empty."""
        return self._stop.feed(self._stream.push(id_))

    def finish(self) -> str:
        """The rest that was held back."""
        last = self._stop.feed(self._stream.flush())
        return last if self.stopped else last + self._stop.flush()


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
