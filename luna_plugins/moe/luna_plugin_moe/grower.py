"""Sparse upcycling: a dense feed-forward layer becomes a mixture whose experts are its copies.

Komatsuzaki et al. 2023, arXiv 2212.05055. The weights of the chosen experts sum to 1, so the copies together say what
the dense layer said: the same function, to rounding. Each then learns from the tokens that the new router sends to it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.growth import Grower, Grown
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.parts import make_parts
from luna_kernel.plugins.registry import Registry

from .config import UpcycleConfig

t = catalogue(__package__)


class Upcycle(Grower):
    """Dense SwiGLU layers of the kernel, `gate_up` (2F, D) and `down` (D, F), into E copies each."""

    tolerance = 1e-5
    config: UpcycleConfig

    def grow(self, model: Grown, registry: Registry) -> Grown:
        """See `Grower`.

        Raises:
            UsageError: a block has no dense layer, `top_k` is 1, or the mixture keeps its experts in another form.
        """
        from luna_kernel.model.place import parse_place

        blueprint = Blueprint.from_json(model.blueprint)
        weights, births = dict(model.weights), dict(model.births)
        for block in parse_place(self.config.place, len(blueprint.blocks), component="upcycle").blocks:
            place = f"blocks.{block}.ffn"
            node = blueprint.node_at(place)
            if node["name"] != "swiglu":
                raise UsageError(t("upcycle.not_dense", place=place, name=node["name"]), hint=t("upcycle.hint"))
            dense = {name: weights.pop(f"{place}.{name}") for name in ("gate_up.weight", "down.weight")}
            node, state = self._mixture(place, dense, blueprint, registry)
            blueprint = blueprint.with_node(place, node)
            weights |= {f"{place}.{name}": value for name, value in state.items()}
            births |= {f"{place}.{name}": model.step for name in state}
        kept = {name: state for name, state in model.optimizer_state.items() if name in weights}
        births = {name: step for name, step in births.items() if name in weights}
        return dataclasses.replace(
            model, blueprint=blueprint.to_json(), weights=weights, optimizer_state=kept, births=births
        )

    def _mixture(
        self, place: str, dense: dict[str, Tensor], blueprint: Blueprint, registry: Registry
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Node and weights of the layer that takes the place of a dense one."""
        gate_up, down = dense["gate_up.weight"], dense["down.weight"]
        node = {"name": "moe", **self.config.layer, "expert_dim": down.shape[1]}
        part = make_parts("ffn", place, node, blueprint.dims, registry)[0]
        if part.node.get("top_k") == 1:
            raise UsageError(t("upcycle.one"), hint=t("upcycle.one.hint"))
        state = {name: value.to(down) for name, value in part.module.state_dict().items()}
        experts = part.node.get("num_experts")
        shapes = [tuple(state[name].shape) if name in state else () for name in ("w13", "w2")]
        if shapes != [(experts, *gate_up.shape), (experts, *down.shape)] or part.node.get("shared_dim"):
            raise UsageError(t("upcycle.other_form", name=part.component.name), hint=t("upcycle.hint"))
        state["w13"] = gate_up.expand(experts, *gate_up.shape).clone()
        state["w2"] = down.expand(experts, *down.shape).clone()
        return part.node, state
