"""Growth in width of the kernel's dense layers: the same function, to rounding.

Shape letters: V vocabulary, D width of the residual stream, F hidden units.

Hidden units are doubled as in Net2Net (Chen et al. 2016, arXiv 1511.05641): a copy reads what its source reads, and the
two share the source's outgoing weights, unequally (LEMON, Wang et al. 2024, arXiv 2310.07999), or they would stay equal
for ever. The stream is widened by channels that are zero (LEMON's choice under RMSNorm): every writer writes zeros into
them, readers begin with small random weights, and RMSNorm is corrected, since its mean now counts the zeros too:
rms(x; D) = sqrt(D'/D) · rms([x, 0]; D'), so its weights are multiplied by sqrt(D/D') and eps by D/D'.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.growth import Grower, Grown
from luna_kernel.plugins.registry import Registry

from .config import WidthConfig

t = catalogue(__package__)

POWERS = {"exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "momentum": 1}
"""How what an optimiser keeps of a gradient goes with a factor on the gradient."""

READERS = ("mixer.qkv.weight", "ffn.gate_up.weight", "head.weight")
WRITERS = ("mixer.out.weight", "mixer.out.bias", "ffn.down.weight", "ffn.down.bias")
NORMS = ("mixer_norm.weight", "ffn_norm.weight", "norm.weight")

Change = Callable[[Tensor, int], Tensor]
"""(tensor, power) to the larger tensor: power 0 is the weight itself, 1 and 2 are moments of its gradient."""


class Width(Grower):
    """More hidden units, a wider stream, or both."""

    config: WidthConfig

    def grow(self, model: Grown, registry: Registry) -> Grown:
        """See `Grower`.

        Raises:
            UsageError: a layer in the way is not one of the kernel's dense ones; names it and its place.
        """
        grown = Grown(
            copy.deepcopy(model.blueprint),
            dict(model.weights),
            dict(model.optimizer_state),
            dict(model.births),
            model.step,
        )
        if self.config.ffn > 1:
            self._grow_ffn(grown)
        if self.config.d_model > 1:
            self._grow_stream(grown)
        return grown

    def _grow_ffn(self, grown: Grown) -> None:
        for index, block in enumerate(grown.blueprint["blocks"]):
            place = f"blocks.{index}.ffn"
            _require(block["ffn"]["name"] == "swiglu", "width.ffn", place, block["ffn"])
            hidden = grown.weights[f"{place}.down.weight"].shape[1]
            wider = self._rounded(hidden * self.config.ffn)
            copies, shares = split_units(hidden, wider)
            block["ffn"]["hidden_dim"] = wider
            both = torch.cat([copies, copies + hidden])
            for name, change in (
                ("gate_up.weight", _rows(both, shares.repeat(2))),
                ("gate_up.bias", _rows(both, shares.repeat(2))),
                ("down.weight", _columns(copies, shares)),
            ):
                if f"{place}.{name}" in grown.weights:
                    _apply(grown, f"{place}.{name}", change)

    def _grow_stream(self, grown: Grown) -> None:
        plan = grown.blueprint
        for index, block in enumerate(plan["blocks"]):
            dense = block["mixer"]["name"] == "attention" and not block["mixer"].get("qk_norm")
            _require(dense, "width.mixer", f"blocks.{index}.mixer", block["mixer"])
            _require(block["ffn"]["name"] == "swiglu", "width.ffn", f"blocks.{index}.ffn", block["ffn"])
            for k, node in enumerate(block["modulators"]):
                _require(False, "width.other", f"blocks.{index}.modulators.{k}", node)
        if any(name.startswith("position.") for name in grown.weights):
            _require(False, "width.other", "position", plan["position"])
        dims = plan["dims"]
        wider = self._rounded(dims["d_model"] * self.config.d_model)
        extra, factor = wider - dims["d_model"], dims["d_model"] / wider
        for name in list(grown.weights):
            if name == "embedding.weight":
                _apply(grown, name, _pad(-1, extra))
            elif name.endswith(READERS):
                _apply(grown, name, _pad(-1, extra, std=dims["init_std"]))
            elif name.endswith(WRITERS):
                _apply(grown, name, _pad(0, extra))
            elif name.endswith(NORMS):
                _apply(grown, name, _norm(extra, math.sqrt(factor)))
        dims["d_model"], dims["norm_eps"] = wider, dims["norm_eps"] * factor

    def _rounded(self, size: float) -> int:
        return math.ceil(size / self.config.multiple) * self.config.multiple


def split_units(units: int, wider: int) -> tuple[Tensor, Tensor]:
    """Which unit each of `wider` units copies, (wider,) int64, the old ones first; and its share of what the unit gave,
    (wider,) float64, unequal, adding to 1 for each old unit."""
    turns = [torch.randperm(units) for _ in range(-(-wider // units) - 1)]
    copies = torch.cat([torch.arange(units), *turns])[:wider]
    # Adam hides how large a gradient is, so shares that are almost equal would part for very long only.
    turn = torch.arange(wider, dtype=torch.float64).div(units, rounding_mode="floor")
    raw = 1.0 + turn + 0.5 * torch.rand(wider, dtype=torch.float64)
    total = torch.zeros(units, dtype=torch.float64).index_add_(0, copies, raw)
    return copies, raw / total[copies]


def _rows(copies: Tensor, shares: Tensor) -> Change:
    """Incoming weights: copied; the gradient of a copy is its share of the source's."""

    def change(tensor: Tensor, power: int) -> Tensor:
        rows = tensor[copies.to(tensor.device)]
        scale = shares.to(tensor.device, tensor.dtype) ** power
        return rows * scale.view(-1, *[1] * (tensor.dim() - 1)) if power else rows

    return change


def _columns(copies: Tensor, shares: Tensor) -> Change:
    """Outgoing weights: shared out; the gradient of each share is the source's."""

    def change(tensor: Tensor, power: int) -> Tensor:
        columns = tensor[:, copies.to(tensor.device)]
        return columns if power else columns * shares.to(tensor.device, tensor.dtype)

    return change


def _pad(axis: int, extra: int, std: float = 0.0) -> Change:
    """More entries along an axis: zeros, or normal ones; their moments are zero."""

    def change(tensor: Tensor, power: int) -> Tensor:
        shape = list(tensor.shape)
        shape[axis] = extra
        new = torch.randn(shape) * std if std and not power else torch.zeros(shape)
        return torch.cat([tensor, new.to(tensor)], axis)

    return change


def _norm(extra: int, factor: float) -> Change:
    """RMSNorm's weights, times `factor`, so their gradients over `factor`; new ones begin with the mean."""

    def change(tensor: Tensor, power: int) -> Tensor:
        scaled = tensor * (factor if not power else factor**-power)
        new = scaled.new_zeros(extra) if power else scaled.mean().expand(extra)
        return torch.cat([scaled, new])

    return change


def _apply(grown: Grown, name: str, change: Change) -> None:
    """Change a weight and what optimisers keep of it; what they keep that is not known here begins anew."""
    weight = grown.weights[name]
    grown.weights[name] = change(weight, 0)
    entries: dict[str, Any] = grown.optimizer_state.pop(name, {})
    shaped = {key for key, value in entries.items() if isinstance(value, Tensor) and value.shape == weight.shape}
    if shaped <= set(POWERS):
        moved = {key: change(value, POWERS[key]) if key in shaped else value for key, value in entries.items()}
        if moved:
            grown.optimizer_state[name] = moved


def _require(condition: bool, key: str, place: str, node: dict[str, Any]) -> None:
    if not condition:
        raise UsageError(t(key, name=node["name"], place=place), hint=t("width.hint"))
