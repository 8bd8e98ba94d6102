"""Where in the model a component goes: the grammar of a component's `place` and of `--place`.

    every block            every 2nd block          every 3rd block from 1
    block 3                blocks 0,2,5             first block, last block
    last 2 blocks          no block
    every 4th block from the end
    every block except last block, every block except every 4th from the end
    3 of 4 blocks, or short 3:1

Blocks count from 0. `every Nth block` begins at block N-1, so that the first block keeps the plain layers; `from K`
says otherwise. `3 of 4 blocks` takes the first three of every four, the groups counted from the end: the last block
stays as it is. `3:1` is the same as a ratio of taken to left. A modulator may name the layer that it wraps, `mixer of
every block`; without it, the feed-forward.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

_EVERY = re.compile(r"every (?:(\d+)(?:st|nd|rd|th)(?: block)?|block)(?: from (?:(\d+)|(the end)))?")
_LIST = re.compile(r"blocks? (\d+(?: ?, ?\d+)*)")
_END = re.compile(r"(first|last) (?:(\d+) blocks|block)")
_SHARE = re.compile(r"(\d+) of (\d+) blocks|(\d+) ?: ?(\d+)")
_SLOT = re.compile(r"(mixer|ffn) of (.+)")


@dataclass(frozen=True)
class Place:
    """A parsed place."""

    blocks: tuple[int, ...]
    """Indices, ascending."""
    slot: str | None = None
    """`mixer` or `ffn` if the place named it."""


def parse_place(text: str, num_layers: int, *, component: str = "?") -> Place:
    """Read a place in a model of `num_layers` blocks.

    Raises:
        UsageError: not of the grammar, or a block that the model does not have; names the component.
    """
    rest, slot = " ".join(text.lower().split()), None
    if match := _SLOT.fullmatch(rest):
        slot, rest = match[1], match[2]
    chosen: set[int] | None = None
    for part in rest.split(" except "):
        blocks = _blocks(part, num_layers, text, component)
        chosen = set(blocks) if chosen is None else chosen - set(blocks)
    assert chosen is not None
    return Place(tuple(sorted(chosen)), slot)


def _blocks(part: str, num_layers: int, text: str, component: str) -> range | list[int]:
    """The blocks that one part of a place means, the part being free of `except`."""
    if part == "no block":
        return []
    if match := _EVERY.fullmatch(part):
        step = int(match[1] or 1)
        begin = int(match[2]) if match[2] else step - 1
        if step > 0 and match[3]:
            return range(num_layers - 1, -1, -step)
        if step > 0:
            _check([begin], num_layers, text, component, upper=match[2] is not None)
            return range(begin, num_layers, step)
    if match := _LIST.fullmatch(part):
        listed = [int(item) for item in match[1].split(",")]
        _check(listed, num_layers, text, component)
        return listed
    if match := _END.fullmatch(part):
        count = int(match[2] or 1)
        if count > 0:
            _check([count - 1], num_layers, text, component)
            return range(count) if match[1] == "first" else range(num_layers - count, num_layers)
    if match := _SHARE.fullmatch(part):
        taken = int(match[1] or match[3])
        group = int(match[2]) if match[2] else taken + int(match[4])
        if 0 < taken < group:
            return [block for block in range(num_layers) if (num_layers - 1 - block) % group >= group - taken]
    raise UsageError(t("place.bad", component=component, place=text), hint=t("place.hint"))


def _check(blocks: Iterable[int], num_layers: int, text: str, component: str, *, upper: bool = True) -> None:
    for block in blocks:
        if upper and block >= num_layers:
            raise UsageError(
                t("place.no_such_block", component=component, place=text, block=block, last=num_layers - 1),
                hint=t("place.hint"),
            )


def parse_overrides(options: Iterable[str]) -> dict[str, str]:
    """`--place moc=every 2nd block`, given any number of times, as {name: place}.

    Raises:
        UsageError: without `=`, without a name, or one name twice.
    """
    places: dict[str, str] = {}
    for option in options:
        name, equals, place = (part.strip() for part in option.partition("="))
        if not equals or not name or not place:
            raise UsageError(t("place.option", option=option), hint=t("place.hint"))
        if name in places:
            raise UsageError(t("place.twice", component=name), hint=t("place.hint"))
        places[name] = place
    return places
