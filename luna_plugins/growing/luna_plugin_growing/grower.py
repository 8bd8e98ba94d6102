"""Growth in depth: new blocks that write nothing yet, and the whole depth stacked.

`Depth` is LLaMA-Pro's block expansion (Wu et al. 2024, arXiv 2401.02415): x + f(x) with f's last weights at zero is x,
to the bit, and the gradient reaches those weights at once, the others from the second step on. `Stack` is G_stack (Du
et al. 2024, arXiv 2405.15319): it changes the function, and is here to be compared with.
"""

from __future__ import annotations

import copy
import re

import torch

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.growth import Grower, Grown
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.meta import shapes_only
from luna_kernel.plugins.registry import Registry

from .config import DepthConfig, StackConfig

t = catalogue(__package__)

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


class Depth(Grower):
    """Copies of blocks, their output parameters zero; works for every layer that names them."""

    tolerance = 0.0
    config: DepthConfig

    def grow(self, model: Grown, registry: Registry) -> Grown:
        """See `Grower`.

        Raises:
            UsageError: a layer of a block to be copied does not name its output parameters, or there is no such block.
        """
        order = self._order(len(model.blueprint["blocks"]))
        grown = rearrange(model, order)
        with shapes_only():
            live = Decoder(Blueprint.from_json(grown.blueprint), registry)
        new = tuple(f"blocks.{index}." for index, (_, is_new) in enumerate(order) if is_new)
        for part in live.parts:
            if part.place.startswith(new) and not part.nested:  # what is nested goes out through the part around it
                names = part.module.output_parameters()  # type: ignore[operator]
                if not names:
                    facts = {"name": part.component.name, "plugin": part.component.plugin, "place": part.place}
                    raise UsageError(t("depth.silent", **facts), hint=t("depth.silent.hint"))
                for name in names:
                    full = f"{part.place}.{name}"
                    grown.weights[full] = torch.zeros_like(grown.weights[full])
        return grown

    def _order(self, depth: int) -> list[tuple[int, bool]]:
        count = self.config.blocks
        sources = list(self.config.after) or [-(-(k + 1) * depth // count) - 1 for k in range(count)]
        wrong = [source for source in sources if not 0 <= source < depth]
        if wrong:
            raise UsageError(t("depth.no_block", block=wrong[0], last=depth - 1))
        return [(i, new) for i in range(depth) for new in (False, *[True] * sources.count(i))]


class Stack(Grower):
    """All blocks, `times` times one upon the other."""

    tolerance = None
    config: StackConfig

    def grow(self, model: Grown, registry: Registry) -> Grown:
        """See `Grower`."""
        depth = len(model.blueprint["blocks"])
        return rearrange(model, [(i, turn > 0) for turn in range(self.config.times) for i in range(depth)])


def rearrange(model: Grown, order: list[tuple[int, bool]]) -> Grown:
    """The model of blocks in another order, with repetitions.

    Args:
        model: is left alone.
        order: for each block to be, the block that it is now, and whether it is a new copy: without moments, born now.
    """
    plan = model.blueprint
    blocks = [copy.deepcopy(plan["blocks"][source]) for source, _ in order]
    blueprint = {**plan, "dims": {**plan["dims"], "num_layers": len(order)}, "blocks": blocks}
    grown = Grown(blueprint, {}, step=model.step)
    for name, tensor in model.weights.items():
        match = _BLOCK.fullmatch(name)
        for index, (source, new) in enumerate(order):
            if match is None or source == int(match[1]):
                to = name if match is None else f"blocks.{index}.{match[2]}"
                grown.weights[to] = tensor
                if new and match is not None:
                    grown.births[to] = model.step
                else:
                    if name in model.optimizer_state:
                        grown.optimizer_state[to] = model.optimizer_state[name]
                    if name in model.births:
                        grown.births[to] = model.births[name]
    return grown
