"""Conditions: what is known about a text from outside it, such as its domain, its emotion, the persona that speaks.

In data, a record names them; each is a word, weights by name, or plain numbers:

    {"pergunta": …, "resposta": …, "condition": {"domain": "saude", "emotion": {"alegria": 0.8}, "style": [0.1, -2]}}

A model that reads a condition gets it as a vector (C,): C is the room that its layers have, and each dimension belongs
to a name. Which name has which dimension is found in the data, is saved with the model (`conditions` of `luna.json`),
and never changes: data seen later may only add names while there is room. Dimensions without a name are 0. The
dimensions of plain numbers are called `0`, `1`, … in their order.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

Weights = dict[str, float]
"""The value of one condition: its dimensions by name."""

MAX_NAME = 100
"""Characters of the name of a condition or dimension."""
MAX_DIMENSIONS = 4096
"""Dimensions that one record may give to one condition."""


def read_conditions(value: Any) -> dict[str, Weights] | None:
    """The conditions of one record by name; None if there are none.

    Raises:
        UsageError: not of the shapes above; says which condition.
    """
    if value is None or value == {}:
        return None
    if not isinstance(value, Mapping):
        raise UsageError(t("condition.not_object"), hint=t("condition.shapes"))
    return {_name(name, "condition"): read_value(name, item) for name, item in value.items()}


def read_value(condition: str, value: Any) -> Weights:
    """A word as weight 1, weights by name as they are, numbers under `0`, `1`, …

    Raises:
        UsageError: of another shape, not finite, or too many.
    """
    if isinstance(value, str):
        return {_name(value, condition): 1.0}
    if isinstance(value, list | tuple):
        value = {str(index): number for index, number in enumerate(value)}
    if not isinstance(value, Mapping) or not value:
        raise UsageError(t("condition.bad_value", condition=condition), hint=t("condition.shapes"))
    if len(value) > MAX_DIMENSIONS:
        raise UsageError(t("condition.too_long", condition=condition, limit=MAX_DIMENSIONS))
    weights = {}
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < 1e30:
            text = t("condition.bad_number", condition=condition, name=str(name)[:MAX_NAME])
            raise UsageError(text, hint=t("condition.shapes"))
        weights[_name(name, condition)] = float(number)
    return weights


def _name(name: Any, where: str) -> str:
    clean = unicodedata.normalize("NFC", name).strip() if isinstance(name, str) else ""
    if not clean or len(clean) > MAX_NAME or not clean.isprintable():
        raise UsageError(t("condition.bad_name", name=repr(name)[:MAX_NAME], condition=str(where)[:MAX_NAME]))
    return clean


@dataclass(frozen=True)
class ConditionSpace:
    """The conditions that a model reads, and what their dimensions are called."""

    widths: Mapping[str, int] = field(default_factory=dict)
    """C of each condition that the model reads."""
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the first dimensions of each; at most C."""

    def with_names(self, found: Mapping[str, Iterable[str]]) -> ConditionSpace:
        """The space with the names of further data; those of conditions that the model does not read are left out.

        New names follow the known ones, sorted, so that the order of the data does not matter.

        Raises:
            UsageError: more names than dimensions, or names and plain numbers in one condition.
        """
        names = {condition: tuple(known) for condition, known in self.names.items() if condition in self.widths}
        for condition, given in found.items():
            if condition not in self.widths:
                continue
            known = names.get(condition, ())
            new = set(given) - set(known)
            numbered = {name.isascii() and name.isdigit() for name in {*known, *new}}
            if len(numbered) > 1:
                raise UsageError(t("condition.mixed", condition=condition), hint=t("condition.mixed.hint"))
            if numbered == {True}:
                last = max(map(int, {*known, *new}))
                known, new = tuple(map(str, range(last + 1))), set()
            width = self.widths[condition]
            if len(known) + len(new) > width:
                fields = {"condition": condition, "count": len(known) + len(new), "width": width}
                raise UsageError(t("condition.no_room", **fields), hint=t("condition.no_room.hint"))
            names[condition] = (*known, *sorted(new))
        return ConditionSpace(self.widths, names)

    def column(self, condition: str, name: str) -> int | None:
        """The dimension of a name; None where there is none, or the model does not read the condition."""
        names = self.names.get(condition, ())
        return names.index(name) if condition in self.widths and name in names else None

    def vector(self, condition: str, value: Any) -> list[float]:
        """A word, weights by name or numbers as the vector (C,) that the model reads.

        Raises:
            UsageError: an unknown condition or name; names the nearest.
        """
        if condition not in self.widths:
            raise unknown_condition(condition, self.widths)
        weights = read_value(condition, value)
        vector = [0.0] * self.widths[condition]
        for name, number in weights.items():
            column = self.column(condition, name)
            if column is None:
                raise unknown_name(condition, name, self.names.get(condition, ()))
            vector[column] = number
        return vector


def unknown_condition(condition: str, known: Iterable[str]) -> UsageError:
    """The error for a condition that a model does not read."""
    names = sorted(known)
    text = t("condition.unknown", condition=condition[:MAX_NAME]) + _nearest(condition, names)
    hint = t("condition.known", names=", ".join(names)) if names else t("condition.none")
    return UsageError(text, hint=hint)


def unknown_name(condition: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that a condition does not have."""
    names = list(known)
    text = t("condition.unknown_name", condition=condition, name=name[:MAX_NAME]) + _nearest(name, names)
    hint = t("condition.names", condition=condition, names=", ".join(names[:40])) if names else t("condition.no_names")
    return UsageError(text, hint=hint)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return " " + t("condition.nearest", name=near[0]) if near else ""
