"""Training a few new weights beside frozen ones: every linear layer of the blocks is stood in for by an adapter.

Until the first step the model computes what it computed before; at the end each adapter is folded into the layer that
it stands beside, so that the finished model has the old shape and needs no plugin. Checkpoints hold both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.growth import Adapter
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins.registry import Registry

t = catalogue(__package__)


def adapt(model: Decoder, node: Mapping[str, Any], registry: Registry) -> tuple[int, int]:
    """Freeze `model` and put an adapter in the place of each linear layer of its blocks.

    Args:
        model: is changed.
        node: the adapter's `name`, and fields of its configuration.
        registry: where the adapter comes from.

    Returns:
        How many layers are adapted, and how many weights are trained now.

    Raises:
        UsageError: no such adapter, or the blocks have no linear layer.
        ConfigError: its fields do not validate.
    """
    component = registry.get("adapter", node["name"], where="adapter")
    config = component.make_config(dict(node), where="adapter")
    make: Any = component.load()
    found = [(owner, name, layer) for owner, name, layer in _children(model.blocks) if isinstance(layer, nn.Linear)]
    if not found:
        raise UsageError(t("adapter.no_layer", name=node["name"]), hint=t("adapter.no_layer.hint"))
    for weight in model.parameters():
        weight.requires_grad_(False)
    for owner, name, layer in found:
        setattr(owner, name, make(config, layer).to(layer.weight.device))
    return len(found), sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def merge(model: Decoder) -> None:
    """Fold every adapter into the layer that it stands beside, and let all weights be trained again."""
    for owner, name, layer in list(_children(model.blocks)):
        if isinstance(layer, Adapter):
            setattr(owner, name, layer.merged())
    for weight in model.parameters():
        weight.requires_grad_(True)


def weights_of_start(model: Decoder, plain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the plain model under their names in the adapted one, beside the adapters' own as they are."""
    adapted = {name for name, module in model.named_modules() if isinstance(module, Adapter)}
    found = dict(model.state_dict())
    for name, tensor in plain.items():
        owner, _, last = name.rpartition(".")
        found[f"{owner}.wrapped.{last}" if owner in adapted else name] = tensor
    return found


def _children(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """(owner, name, module) of everything below `module`; what is inside an adapter is the adapter's own."""
    for name, child in module.named_children():
        yield module, name, child
        if not isinstance(child, Adapter):
            yield from _children(child)
