"""A judgement of an answer, and what is allowed in it."""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.data.portuguese import fold

t = catalogue(__package__)

DIMENSIONS = ("helpful", "relevant", "accurate", "detailed", "concise")
_PORTUGUESE = {
    "util": "helpful", "relevante": "relevant", "precisa": "accurate", "preciso": "accurate", "correta": "accurate",
    "detalhada": "detailed", "detalhado": "detailed", "concisa": "concise", "conciso": "concise",
}  # fmt: skip
LOWEST, HIGHEST = 1, 5
LIKED_FROM, DISLIKED_UP_TO = 4.0, 2.0
"""Mean ratings from which an answer counts as liked and up to which as disliked, where no verdict was given."""
MAX_TEXT = 20_000
"""Characters of a comment or correction."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")


@dataclass(frozen=True)
class Entry:
    """What somebody thinks of one answer. Later words about the same answer amend it."""

    prompt: tuple[dict[str, str], ...] = ()
    """The messages before the answer, each with `role` and `content`; the last is the question."""
    answer: str = ""
    verdict: str | None = None
    """`good`, `bad`, or None: nobody said."""
    ratings: dict[str, int] = field(default_factory=dict)
    """1 (worst) to 5 by dimension."""
    text: str = ""
    """The comment."""
    correction: str = ""
    """What the answer should have been."""
    model: str = ""
    generator: str = ""
    """Who answered: `luna` is the model itself, `extractive` a quotation; empty if unknown."""
    sources: tuple[dict[str, Any], ...] = ()
    """The citations, and the passages that were shown to the model."""
    session_id: str = ""
    response_id: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: float = field(default_factory=lambda: round(time.time(), 6))
    """Seconds since 1970, to the microsecond, which is what a file of them holds."""

    @property
    def question(self) -> str:
        """The last message of the prompt."""
        return self.prompt[-1]["content"] if self.prompt else ""

    @property
    def liked(self) -> bool | None:
        """Whether the answer was liked: by the verdict, else by the mean rating; a correction alone says no."""
        if self.verdict is not None:
            return self.verdict == "good"
        if self.ratings:
            mean = sum(self.ratings.values()) / len(self.ratings)
            if mean >= LIKED_FROM:
                return True
            return False if mean <= DISLIKED_UP_TO else None
        return False if self.correction else None

    def amended(self, later: Entry) -> Entry:
        """This entry with what `later` says; what it does not mention stays."""
        return replace(
            self,
            verdict=later.verdict or self.verdict,
            ratings={**self.ratings, **later.ratings},
            text=later.text or self.text,
            correction=later.correction or self.correction,
        )


def dimension_of(name: str) -> str:
    """The dimension that `name` means, in either language.

    Raises:
        UsageError: none; names the nearest.
    """
    import difflib

    folded = fold(name.strip())
    found = folded if folded in DIMENSIONS else _PORTUGUESE.get(folded)
    if found is None:
        near = difflib.get_close_matches(folded, [*DIMENSIONS, *_PORTUGUESE], n=1)
        hint = (
            t("dimension.nearest", name=near[0])
            if near
            else t("dimension.known", names=", ".join(t(f"dimension.{name}") for name in DIMENSIONS))
        )
        raise UsageError(t("dimension.unknown", name=name[:40]), hint=hint)
    return found


def rating_of(name: str, value: Any) -> int:
    """A rating as a whole number.

    Raises:
        UsageError: no whole number from 1 to 5.
    """
    number: Any = value
    if isinstance(value, str):
        number = int(value) if value.strip().isdecimal() and len(value) < 10 else None
    good = isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)
    if not good or number != int(number) or not LOWEST <= number <= HIGHEST:
        raise UsageError(t("rating.range", name=name, value=str(value)[:40]), hint=t("rating.range.hint"))
    return int(number)


def words_of(name: str, value: Any) -> str:
    """A comment or correction, without surrounding blanks.

    Raises:
        UsageError: no text, too long, or half characters in it.
    """
    if not isinstance(value, str):
        raise UsageError(t("text.none", name=name))
    if len(value) > MAX_TEXT:
        raise UsageError(t("text.long", name=name, found=len(value), limit=MAX_TEXT))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(t("text.half", name=name)) from error
    return value.replace("\0", "").strip()


def judgement(feedback: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `Entry` that say what somebody thinks, out of the hook's dictionary or the seed's.

    Known keys: the dimensions, flat or under `ratings`; `rating` or `verdict` (`good`, `bad`); `text` or
    `text_feedback`; `correction` or `corrections`. Empty texts and None say nothing.

    Raises:
        UsageError: an unknown key, a rating out of range, or nothing is said at all.
    """
    found: dict[str, Any] = {"ratings": {}}
    for key, value in feedback.items():
        if value is None or value == "":
            continue
        if key in ("rating", "verdict"):
            if value not in ("good", "bad"):
                raise UsageError(t("verdict.unknown", value=str(value)[:40]))
            found["verdict"] = value
        elif key in ("text", "text_feedback"):
            found["text"] = words_of(key, value)
        elif key in ("correction", "corrections"):
            joined = "\n".join(map(str, value)) if isinstance(value, list) else value
            found["correction"] = words_of(key, joined)
        elif key == "ratings" and isinstance(value, Mapping):
            found["ratings"] |= {dimension_of(name): rating_of(name, number) for name, number in value.items()}
        else:
            found["ratings"][dimension_of(key)] = rating_of(key, value)
    if not found["ratings"] and not any(found.get(key) for key in ("verdict", "text", "correction")):
        raise UsageError(
            t("judgement.empty"),
            hint=t("dimension.known", names=", ".join(t(f"dimension.{name}") for name in DIMENSIONS)),
        )
    return found


def id_of(value: Any) -> str:
    """An identifier out of a file.

    Raises:
        UsageError: not 1 to 100 letters, digits and `._:-`.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise UsageError(t("id.bad", value=str(value)[:40]))
    return value
