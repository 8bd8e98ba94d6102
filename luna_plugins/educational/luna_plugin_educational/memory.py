"""What a model and a conversation take in memory: computed from the sizes, and measured on the tensors themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.base.storage import size_text
from luna_kernel.chat.generators import LunaGenerator
from luna_kernel.contracts.chat import Painted
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.kv_cache import KVCache
from luna_kernel.model.state import DecodeState

from .page import Page

t = catalogue(__package__)


@dataclass(frozen=True)
class StateMemory:
    """One layer's decode state."""

    place: str
    kind: str
    """`kv`, `ssm` or `other`."""
    computed: int | None
    """Bytes by the formula; None where there is none."""
    measured: int
    """Bytes of its tensors."""
    used: int
    """Tokens that it holds; 0 for one of constant size."""
    room: int
    """Tokens that fit before it grows."""


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in a state: of dataclasses, plain objects, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from tensors([getattr(value, item.name) for item in fields(value)])
    elif hasattr(value, "__dict__"):
        yield from tensors(vars(value))


def measured_bytes(value: Any) -> int:
    """Bytes of the tensors in a state; of those which share their memory the largest counts."""
    sizes: dict[int, int] = {}
    for tensor in tensors(value):
        place = tensor.untyped_storage().data_ptr()
        sizes[place] = max(sizes.get(place, 0), tensor.numel() * tensor.element_size())
    return sum(sizes.values())


def weight_bytes(model: Decoder) -> tuple[int, int]:
    """(parameters, bytes of parameters and buffers), a tied matrix once."""
    count = sum(parameter.numel() for parameter in model.parameters())
    size = sum(item.numel() * item.element_size() for item in (*model.parameters(), *model.buffers()))
    return count, size


def state_memory(model: Decoder, state: DecodeState) -> list[StateMemory]:
    """Each layer's part of a conversation's state; layers that keep none are left out."""
    found = []
    for index, block in enumerate(state.blocks):
        layers: Any = model.blocks[index]
        slots = [("mixer", block.mixer, layers.mixer), ("ffn", block.ffn, layers.ffn)]
        slots += [(f"modulators.{k}", own, layers.modulators[k]) for k, own in enumerate(block.modulators)]
        for slot, own, layer in slots:
            place = f"blocks.{index}.{slot}"
            inner = [item.name for item in fields(own)] if is_dataclass(own) else []
            if inner and all(hasattr(layer, name) for name in inner):  # a hybrid's: one state per branch
                found += [_one(f"{place}.{name}", getattr(own, name), getattr(layer, name)) for name in inner]
            elif own is not None:
                found.append(_one(place, own, layer))
    return found


def _one(place: str, own: Any, layer: Any) -> StateMemory:
    """A state's bytes: by the layer's own sizes, and of the tensors."""
    if isinstance(own, KVCache):
        number, slots = own.keys.element_size(), own.capacity
        each = 2 * layer.num_kv_heads * layer.head_dim * number + 8  # keys, values, and a position of 8 bytes
        each += 0 if own.segments is None else 8
        marks = 0 if own.marks is None else 8 * own.marks.shape[-1]
        computed = slots * (each + marks) + (marks if own.last_marks is not None else 0)
        return StateMemory(place, "kv", computed, measured_bytes(own), own.length, slots)
    if hasattr(own, "hidden") and hasattr(layer, "rate_log"):
        computed = layer.heads * layer.head_dim * layer.config.state_dim * own.hidden.element_size()
        computed += max(layer.config.conv_width - 1, 0) * layer.channels * own.inputs.element_size()
        return StateMemory(place, "ssm", computed + 8, measured_bytes(own), 0, 0)
    return StateMemory(place, "other", None, measured_bytes(own), 0, 0)


def process_bytes() -> int | None:
    """Memory of this process that is resident; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_page(generator: LunaGenerator, columns: int | None = None) -> Painted:
    """Weights, the conversation's state layer by layer, the process."""
    model: Decoder = generator.model
    page = Page(columns)
    count, size = weight_bytes(model)
    page.head(t("memory.weights"))
    dtypes = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()}))
    page.prose(t("memory.weights.text", count=number_text(count / 1e6, 2), dtype=dtypes, size=size_text(size)))
    page.head(t("memory.state"))
    state = generator.state
    if state is None:
        page.prose(t("memory.state.none"))
    else:
        layers = state_memory(model, state)
        page.prose(t("memory.state.text", tokens=state.length, limit=state.max_length))
        rows = [[t(f"column.{name}") for name in ("layer", "keeps", "held", "computed", "measured")]]
        for one in layers:
            held = f"{one.used} / {one.room}" if one.room else t("memory.constant")
            computed = "-" if one.computed is None else size_text(one.computed)
            rows.append([one.place, t(f"memory.kind.{one.kind}"), held, computed, size_text(one.measured)])
        page.rows(rows)
        total = sum(one.measured for one in layers)
        page.prose(t("memory.state.sum", size=size_text(total)))
        growing = [one for one in layers if one.kind == "kv" and one.room]
        if growing:
            each = sum((one.computed or 0) // one.room for one in growing)
            page.prose(t("memory.per_token", size=size_text(each), whole=size_text(each * state.max_length)))
    resident = process_bytes()
    if resident is not None:
        page.head(t("memory.process"))
        page.prose(t("memory.process.text", size=size_text(resident)))
    return page.painted()
