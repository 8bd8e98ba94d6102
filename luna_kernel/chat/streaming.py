"""From generated ids to text for people: whole characters, no control tokens, nothing after a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from luna_kernel.contracts.chat import Text, Thinking


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


class ThoughtTags:
    """Separates a thinking part in tags, `<think>…</think>` at the beginning, from the answer behind it.

    Blanks before and after the thinking part are dropped. What could still become a tag is held back.

    Args:
        inside: whether the text begins inside the thinking part, its opening tag being in the prompt.
        tags: the opening and the closing tag.
    """

    def __init__(self, *, inside: bool = False, tags: tuple[str, str] = ("<think>", "</think>")) -> None:
        self._tags = tags
        self._state = "opened" if inside else "start"
        self._held = ""

    @property
    def thinking(self) -> bool:
        """Whether the text is inside the thinking part now."""
        return self._state in ("opened", "inside")

    def push(self, text: str) -> list[Text | Thinking]:
        """Take the next piece; returns what is certain now."""
        self._held += text
        found: list[Text | Thinking] = []
        if self._state == "start":
            begun = self._held.lstrip()
            if begun.startswith(self._tags[0]):
                self._state, self._held = "opened", begun[len(self._tags[0]) :]
            elif self._tags[0].startswith(begun):
                return []
            else:
                self._state = "answer"
        if self._state == "opened":
            self._held = self._held.lstrip()
            if not self._held:
                return []
            self._state = "inside"
        if self._state == "inside":
            thought, tag, rest = self._held.partition(self._tags[1])
            keep = 0 if tag else _tail(thought, self._tags[1])
            self._held = thought[len(thought) - keep :] if keep else rest
            thought = thought[: len(thought) - keep]
            if thought:
                found.append(Thinking(thought))
            if not tag:
                return found
            self._state = "behind"
        if self._state == "behind":
            self._held = self._held.lstrip()
            if not self._held:
                return found
            self._state = "answer"
        answer, self._held = self._held, ""
        return [*found, Text(answer)] if answer else found

    def finish(self) -> list[Text | Thinking]:
        """The rest that was held back."""
        held, self._held = self._held, ""
        if not held or self._state == "behind":
            return []
        return [Thinking(held) if self.thinking else Text(held)]


def _tail(text: str, tag: str) -> int:
    """Characters at the end of `text` that may be the beginning of `tag`."""
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)


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
