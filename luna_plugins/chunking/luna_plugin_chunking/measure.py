"""How large a text is: in characters, words or tokens.

Sizes of neighbouring pieces are added, so a text is counted once. Tokens of two pieces joined may be more than those
of the pieces apart. Where the tokenizer splits text by a regular expression that never looks back (GPT-2's, Llama 3's),
only the word at the joint can differ, and what it adds is counted; with others (`additive` is False) whoever joins
pieces must measure the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luna_kernel.base import integrity
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.data.sentences import Span
from luna_kernel.data.tokenizer import TOKENIZER_FILE

from .config import ChunkConfig
from .pretokens import PATTERNS, WHITE, WordCounts

t = catalogue(__package__)

_HEAD = re.compile(f"[{WHITE}]*[^{WHITE}]+[{WHITE}]*")


def measure_of(config: ChunkConfig) -> Measure:
    """What `config` counts in.

    Raises:
        UsageError: the tokenizer cannot be read.
    """
    if config.tokenizer is not None:
        return Tokens(Path(config.tokenizer))
    return Words() if config.unit == "words" else Measure()


class Measure:
    """Characters."""

    additive = True

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """The size of each text."""
        return [len(text) for text in texts]

    def joints(self, text: str, spans: Sequence[Span]) -> list[int]:
        """What joining each span to the one before it adds to the sum of their sizes at most."""
        return [0] * len(spans)

    def reach(self, text: str, start: int, end: int, limit: int) -> int:
        """A place in `text[start:end]` up to which it is about `limit` large."""
        return min(end, start + limit)


class Words(Measure):
    """Words between white space; a word that a cut divides counts on both sides."""

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """The size of each text."""
        return [len(text.split()) for text in texts]

    def reach(self, text: str, start: int, end: int, limit: int) -> int:
        """See `Measure`."""
        found = re.compile(rf"(?:\s*\S+){{1,{limit}}}\s*").match(text, start, end)
        return found.end() if found else end


class Tokens(Measure):
    """Tokens of a `tokenizer.json`; control tokens count as the plain characters that they are in a document."""

    def __init__(self, path: Path) -> None:
        import tokenizers

        file = path / TOKENIZER_FILE if path.is_dir() else path
        if not file.is_file():
            raise UsageError(t("tokenizer.missing", path=path), hint=t("tokenizer.missing.hint"))
        description = integrity.read_json(file)
        try:
            plain = {**description, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # the library raises bare Exception for what it cannot read
            raise UsageError(
                t("tokenizer.broken", path=file, reason=error), hint=t("tokenizer.missing.hint")
            ) from error
        pattern = _local_pattern(description)
        self.additive = pattern is not None
        self._words = None if pattern is None else WordCounts(pattern, self._encoded)
        self._joints: dict[tuple[str, str], int] = {}
        self._parts: dict[str, int] = {}

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """The size of each text."""
        return self._encoded(texts) if self._words is None else self._words.sizes(texts)

    def _encoded(self, texts: Sequence[str]) -> list[int]:
        """The same by the tokenizer."""
        try:
            found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # halves of surrogate pairs
            plain = [text.encode("utf-8", "replace").decode() for text in texts]
            found = self._tokenizer.encode_batch_fast(plain, add_special_tokens=False)
        return [len(item) for item in found]

    def joints(self, text: str, spans: Sequence[Span]) -> list[int]:
        """See `Measure`."""
        if not self.additive:
            return [0] * len(spans)
        keys = [_joint(text, start, end) for start, end in spans]
        new = [key for key in dict.fromkeys(keys) if key not in self._joints]
        parts = list(dict.fromkeys(part for key in new for part in key if part not in self._parts))
        self._parts.update(zip(parts, self.sizes(parts), strict=True))
        for key, both in zip(new, self.sizes([tail + head for tail, head in new]), strict=True):
            self._joints[key] = max(0, both - self._parts[key[0]] - self._parts[key[1]])
        return [self._joints[key] for key in keys]

    def reach(self, text: str, start: int, end: int, limit: int) -> int:
        """See `Measure`."""
        for longest in (5, 16):  # characters of a token; if tokens are longer still, the cut falls earlier
            part = text[start : min(end, start + longest * limit)]
            whole = None if self._words is None else self._words.reach(part, limit)
            if whole is not None and (whole < len(part) or start + whole == end):
                return start + whole
            found = self._tokenizer.encode(part.encode("utf-8", "replace").decode(), add_special_tokens=False)
            if len(found) > limit:
                place = found.token_to_chars(limit)
                return start + (place[0] if place else limit)
            if start + len(part) == end:
                break
        return start + len(part)


def _local_pattern(description: dict[str, Any]) -> re.Pattern[str] | None:
    """How it splits text, if it is a byte-level BPE that splits by a known expression and changes no character."""
    splits = description.get("pre_tokenizer") or {}
    steps = splits.get("pretokenizers", [splits])
    model = description["model"]
    if description.get("normalizer") is not None or model.get("type") != "BPE" or model.get("dropout"):
        return None
    if any(step.get("add_prefix_space") for step in steps):
        return None
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    if len(byte_level) != 1 or len(patterns) + 1 != len(steps):
        return None
    if byte_level[0].get("use_regex", True):
        return None if patterns else PATTERNS[None]
    return PATTERNS.get(patterns[0]) if len(patterns) == 1 else None


def _joint(text: str, start: int, end: int) -> tuple[str, str]:
    """What stands before `start` back to the last letter, and the word after it."""
    place = start
    while place > 0 and not text[place - 1].isalnum():
        place -= 1
    found = _HEAD.match(text, start, end)
    return text[place:start], found.group() if found else text[start:end]
