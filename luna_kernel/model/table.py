"""The table of a blueprint's blocks: what is where, parameters, and floating-point operations per token.

The model is built on the meta device: nothing is allocated, a model of any size takes milliseconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.contracts.layers import Layer
from luna_kernel.plugins.registry import Registry

from .blueprint import Blueprint
from .decoder import Block, Decoder
from .meta import shapes_only

t = catalogue(__package__)


@dataclass(frozen=True)
class Row:
    """One block, or one of the parts around the blocks."""

    part: str
    """`embedding`, `position`, the block's index, `norm` or `head`."""
    mixer: str
    ffn: str
    """With the modulators of the block, if any: `swiglu + persona`."""
    parameters: int
    flops: float
    """Forward, per token; a multiply-add counts two."""


@dataclass(frozen=True)
class BlockTable:
    """Rows and totals."""

    rows: tuple[Row, ...]
    context_length: int
    """Tokens in sight for `flops`."""

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return sum(row.parameters for row in self.rows)

    @property
    def flops(self) -> float:
        """Forward operations per token."""
        return sum(row.flops for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "parameters": self.parameters,
            "flops_per_token": self.flops,
            "context_length": self.context_length,
        }

    def render(self) -> str:
        """As plain text, columns aligned."""
        head = [t(f"table.{name}") for name in ("part", "mixer", "ffn", "parameters", "flops")]
        lines = [[row.part, row.mixer, row.ffn, short(row.parameters), short(row.flops)] for row in self.rows]
        lines.append([t("table.total"), "", "", short(self.parameters), short(self.flops)])
        widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]

        def text(line: list[str]) -> str:
            cells = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
            return "  ".join(cells).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        body = [text(line) for line in lines]
        note = t("table.note", context=self.context_length)
        return "\n".join([text(head), rule, *body[:-1], rule, body[-1], note])


def block_table(blueprint: Blueprint, registry: Registry, context_length: int | None = None) -> BlockTable:
    """The table of a blueprint.

    Args:
        blueprint: what to count.
        registry: the components of the plugins that are on.
        context_length: tokens in sight; None: the model's whole context.
    """
    length = context_length or blueprint.dims.max_positions
    with shapes_only():
        model = Decoder(blueprint, registry)
    dims = blueprint.dims
    rows = [Row("embedding", "", "", _count(model.embedding), 0.0)]
    if model.position is not None and blueprint.position is not None:
        rows.append(Row("position", blueprint.position["name"], "", _count(model.position), 0.0))
    for index, plan in enumerate(blueprint.blocks):
        names = {"mixer": [plan.mixer["name"]], "ffn": [plan.ffn["name"]]}
        for node in plan.modulators:
            names[node.get("slot", "ffn")].append(node["name"])
        block = model.blocks[index]
        assert isinstance(block, Block)
        flops = sum(_flops(part, length) for part in (block.mixer, block.ffn, *block.modulators))
        rows.append(Row(str(index), " + ".join(names["mixer"]), " + ".join(names["ffn"]), _count(block), flops))
    rows.append(Row("norm", "", "", _count(model.norm), 0.0))
    head = 0 if model.head is None else _count(model.head)
    rows.append(Row("head", "", "", head, 2.0 * dims.vocab_size * dims.d_model))
    return BlockTable(tuple(rows), length)


def short(number: float) -> str:
    """1234567 as `1.23 M`, in Portuguese `1,23 M`; three digits and a unit."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 999.5 or unit == "T":
            digits = 0 if not unit else 2 if number < 9.995 else 1 if number < 99.95 else 0
            return f"{number_text(number, digits)} {unit}".rstrip()
        number /= 1000
    raise AssertionError("unreachable")


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _flops(part: nn.Module, context_length: int) -> float:
    if isinstance(part, Layer):
        return part.flops_per_token(context_length)
    return float(sum(2 * weight.numel() for weight in part.parameters() if weight.dim() >= 2))
