"""Which passages may be found: conditions on what is known of them.

    source=*.md          the whole value, `*` and `?` as in file names; accents and case do not matter
    source!=rascunhos/*  not so, or nothing known
    page>=3  ano<2020    numbers as numbers, anything else (dates such as 2024-05-01) in the order of its characters
    autor                known at all

Several conditions must all hold. Names are `source`, `title`, `heading`, `line`, `page`, and whatever the reader of a
document put into its metadata. Of a list one value is enough. Whoever asks with a name that no passage knows is told so
(`check_names`); a condition in a configuration may be about documents that are yet to come.
"""

from __future__ import annotations

import bisect
import difflib
import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.knowledge import StoredChunk
from luna_kernel.data.portuguese import fold

t = catalogue(__package__)

_CONDITION = re.compile(r"\s*([\w.-]+?)\s*(?:(<=|>=|!=|=|<|>)\s*(.*?))?\s*", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_FIELDS = ("source", "title", "heading", "line", "page")
_INTERNAL = {"page_starts"}
"""In the metadata, and said to people as `page`."""


@dataclass(frozen=True)
class Condition:
    """One condition, as it was parsed."""

    name: str
    sign: str
    """`=`, `!=`, `<`, `<=`, `>`, `>=`, or empty: known at all."""
    value: str

    def holds(self, chunk: StoredChunk) -> bool:
        """Whether a chunk meets it."""
        values = _values(chunk, self.name)
        if not self.sign:
            return bool(values)
        if self.sign == "!=":
            return not any(self._equals(value) for value in values)
        test = self._equals if self.sign == "=" else self._ordered
        return any(test(value) for value in values)

    def _equals(self, value: Any) -> bool:
        mine, other = _number(self.value), _number(value)
        if mine is not None and other is not None:
            return mine == other
        # Square brackets are part of names, not a set of characters.
        pattern = fold(self.value).replace("[", "[[]")
        return fnmatch.fnmatchcase(fold(str(value)), pattern)

    def _ordered(self, value: Any) -> bool:
        mine, other = _number(self.value), _number(value)
        if (mine is None) != (other is None):
            return False
        compare = _ORDER[self.sign]
        return compare(other, mine) if mine is not None else compare(fold(str(value)), fold(self.value))


def parse_filters(texts: Sequence[str]) -> tuple[Condition, ...]:
    """The conditions of `texts`.

    Raises:
        UsageError: one cannot be read.
    """
    found = []
    for text in texts:
        match = _CONDITION.fullmatch(text)
        if match is None or (match[2] and not match[3]):
            raise UsageError(t("filter.bad", text=text[:80]), hint=t("filter.bad.hint"), about="filters")
        found.append(Condition(match[1], match[2] or "", match[3] or ""))
    return tuple(found)


def check_names(conditions: Sequence[Condition], known: Iterable[str]) -> None:
    """Refuse a condition on something that is not known of any passage: no passage could be meant by it.

    Args:
        conditions: what is asked for.
        known: names in the metadata of documents and passages.

    Raises:
        UsageError: the name is in no metadata; names the nearest and all that are.
    """
    names = sorted({*_FIELDS, *known} - _INTERNAL)
    for condition in conditions:
        if condition.name not in names:
            near = difflib.get_close_matches(condition.name, names, n=1)
            text = t("filter.unknown", name=condition.name[:80])
            text += " " + t("filter.unknown.near", name=near[0]) if near else ""
            raise UsageError(text, hint=t("filter.unknown.hint", names=", ".join(names)), about="filters")


def _values(chunk: StoredChunk, name: str) -> list[Any]:
    """What is known under a name; empty if nothing."""
    value = _field(chunk, name) if name in _FIELDS else chunk.metadata.get(name)
    values = value if isinstance(value, list) else [value]
    return [str(item).lower() if isinstance(item, bool) else item for item in values if item is not None and item != ""]


def _field(chunk: StoredChunk, name: str) -> Any:
    if name == "page":
        pages = chunk.metadata.get("page_starts", [])
        return bisect.bisect_right(pages, chunk.start) or None
    return getattr(chunk, name)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    text = str(value).strip()
    # Only plain numbers: `nan`, `1e3` and `1_000` are words here.
    return float(text.replace(",", ".")) if re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?", text, re.ASCII) else None
