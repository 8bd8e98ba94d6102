"""Facts of a model's folder that a hardware backend's proposals go by; nothing is opened, only headers are read."""

from __future__ import annotations

from math import prod
from pathlib import Path

from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.backends import ModelFacts
from luna_kernel.plugins.manifest import Manifest
from luna_kernel.plugins.registry import Registry

from .blueprint import Blueprint
from .checkpoint import WEIGHTS_FILE

t = catalogue(__package__)

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def model_facts(folder: Path, registry: Registry | None = None) -> ModelFacts:
    """Read them.

    Args:
        registry: whose configurations say which experts rest; a layer that is not in it counts as one without experts.

    Raises:
        UsageError: there is no model.
        IntegrityError: its files are damaged.
    """
    from safetensors import SafetensorError, safe_open

    manifest = Manifest.read(folder)
    blueprint = Blueprint.from_json(manifest.blueprint)
    total = low = rest = 0
    blocks: dict[str, int] = {}
    experts = _resting_experts(blueprint, registry)
    stacks = dict.fromkeys(experts, 0)
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                entry = file.get_slice(name)
                size = prod(entry.get_shape()) * _BYTES.get(entry.get_dtype(), 4)
                total += size
                low += size * (entry.get_dtype() in ("F16", "BF16"))
                first, _, others = name.partition(".")
                if first == "blocks":
                    index, _, part = others.partition(".")
                    blocks[index] = blocks.get(index, 0) + size
                    shape = entry.get_shape()
                    if index in experts and part.startswith("ffn.w") and shape[0] == experts[index][0]:
                        stacks[index] += size
                else:
                    rest += size
    except (SafetensorError, OSError) as error:
        raise IntegrityError(t("checkpoint.unreadable", file=folder / WEIGHTS_FILE, reason=error)) from error
    dims = blueprint.dims
    share = low / max(1, total)
    unwindowed = sum(block.mixer["name"] == "attention" and not block.mixer.get("window") for block in blueprint.blocks)
    per_token = 2 * dims.num_kv_heads * dims.head_dim * (2 if share > 0.5 else 4) * unwindowed
    resident = rest + max(blocks.values(), default=0)
    one = {index: stacks[index] // count for index, (count, _) in experts.items()}
    return ModelFacts(
        total,
        resident,
        share,
        per_token,
        dims.max_positions,
        top_k=max((top_k for _, top_k in experts.values()), default=0),
        resting_bytes=sum(one[index] * (count - top_k) for index, (count, top_k) in experts.items()),
        expert_bytes=sum(one.values()),
    )


def _resting_experts(blueprint: Blueprint, registry: Registry | None) -> dict[str, tuple[int, int]]:
    """Of each block whose feed-forward layer has experts that rest: how many there are, and how many work."""
    found = {}
    for index, block in enumerate(blueprint.blocks):
        component = None if registry is None else registry.find("ffn", block.ffn["name"])
        if component is not None and component.config:
            counts = getattr(component.make_config(block.ffn), "resting_experts", None)
            if counts is not None:
                found[str(index)] = counts
    return found
