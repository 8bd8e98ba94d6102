"""Facts of a model's folder that a hardware backend's proposals go by; nothing is opened, only headers are read."""

from __future__ import annotations

from math import prod
from pathlib import Path

from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.backends import ModelFacts
from luna_kernel.plugins.manifest import Manifest

from .blueprint import Blueprint
from .checkpoint import WEIGHTS_FILE

t = catalogue(__package__)

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def model_facts(folder: Path) -> ModelFacts:
    """Read them.

    Raises:
        UsageError: there is no model.
        IntegrityError: its files are damaged.
    """
    from safetensors import SafetensorError, safe_open

    manifest = Manifest.read(folder)
    blueprint = Blueprint.from_json(manifest.blueprint)
    total = low = rest = 0
    blocks: dict[str, int] = {}
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                entry = file.get_slice(name)
                size = prod(entry.get_shape()) * _BYTES.get(entry.get_dtype(), 4)
                total += size
                low += size * (entry.get_dtype() in ("F16", "BF16"))
                first, _, others = name.partition(".")
                if first == "blocks":
                    index = others.partition(".")[0]
                    blocks[index] = blocks.get(index, 0) + size
                else:
                    rest += size
    except (SafetensorError, OSError) as error:
        raise IntegrityError(t("checkpoint.unreadable", file=folder / WEIGHTS_FILE, reason=error)) from error
    dims = blueprint.dims
    share = low / max(1, total)
    unwindowed = sum(block.mixer["name"] == "attention" and not block.mixer.get("window") for block in blueprint.blocks)
    per_token = 2 * dims.num_kv_heads * dims.head_dim * (2 if share > 0.5 else 4) * unwindowed
    return ModelFacts(total, rest + max(blocks.values(), default=0), share, per_token, dims.max_positions)
