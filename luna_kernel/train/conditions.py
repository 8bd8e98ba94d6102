"""The conditions of a run: what the model reads, what the data have, and the names that are saved with the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from luna_kernel.base.messages import catalogue
from luna_kernel.data.conditions import ConditionSpace
from luna_kernel.train.corpus import Stores

t = catalogue(__package__)

SHOWN_NAMES = 8


def condition_space(
    widths: Mapping[str, int], known: Mapping[str, Iterable[str]], stores: Stores, say: Callable[[str], None]
) -> ConditionSpace:
    """What the dimensions of the model's conditions are called: the known names first, then those of the data.

    Args:
        widths: C of each condition that the model reads.
        known: names that the model was saved with, or that an earlier start of the run gave.
        stores: the data.
        say: told once which conditions are used, which are ignored, and which the data lack.

    Raises:
        UsageError: the data have more names than the model has room for.
    """
    space = ConditionSpace(widths, {name: tuple(names) for name, names in known.items() if name in widths})
    found = [store.condition_names for store in (stores.train, stores.valid) if store is not None]
    for names in found:
        space = space.with_names(names)
    present = {name for names in found for name in names}
    for name in sorted(present | set(widths)):
        if name not in widths:
            say(t("conditions.ignored", condition=name))
        elif name not in present:
            say(t("conditions.absent", condition=name))
        else:
            names_of = space.names[name]
            shown = ", ".join(names_of[:SHOWN_NAMES]) + (" …" if len(names_of) > SHOWN_NAMES else "")
            say(t("conditions.used", condition=name, names=shown))
    return space
