"""What the conformance suite examines: one component as a module from (x, ctx) to y, and the inputs for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.model.attention import Attention
from luna_kernel.model.attention_config import AttentionConfig
from luna_kernel.model.decoder import Block
from luna_kernel.model.parts import make_parts
from luna_kernel.model.rope import RotaryPosition
from luna_kernel.model.rope_config import RotaryConfig
from luna_kernel.model.state import BlockState
from luna_kernel.plugins.registry import Registry

DIMS = Dims(
    vocab_size=64, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=48, max_positions=128
)


class Subject(nn.Module):
    """The component under examination. A position scheme is examined inside the kernel's attention; a modulator
    wraps a fixed function of its input. Of kind `block` it is a whole block, its nodes in `config`: `mixer`, `ffn` and
    the list `modulators`, each with its `slot`."""

    def __init__(self, kind: str, name: str, config: Mapping[str, Any], dims: Dims, registry: Registry) -> None:
        super().__init__()
        self.kind = kind
        self.dims = dims
        self.part: Any
        if kind == "block":
            self.part = _block(config, dims, registry)
        else:
            self.part = make_parts(kind, f"{kind}.{name}", {**config, "name": name}, dims, registry)[0].module
        self.carrier = Attention(AttentionConfig(), dims) if kind == "position" else None

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """x (B, T, D) to (B, T, D)."""
        if self.carrier is not None:
            ctx.position = self.part
            y: Tensor = self.carrier(x, ctx)
        elif self.kind == "modulator":
            y = self.part(x, x.sin(), ctx)
        elif self.kind == "block":
            ctx.position = RotaryPosition(RotaryConfig(), self.dims).to(x.device)
            y = self.part(x, ctx, ctx.state)
        else:
            ctx.position = RotaryPosition(RotaryConfig(), self.dims).to(x.device)
            y = self.part(x, ctx)
        return y

    def reset_parameters(self) -> None:
        """Fill every weight afresh."""
        for part in self.part.parts() if self.kind == "block" else [self.part]:
            part.reset_parameters()
        if self.carrier is not None:
            self.carrier.reset_parameters()

    def make_state(self, batch: int, max_length: int) -> Any:
        """A fresh decode state in float32, where the weights are."""
        device = next((weight.device for weight in self.parameters()), torch.device("cpu"))
        given = (batch, max_length, torch.float32, device)
        if self.kind == "block":
            block: Block = self.part
            modulators = [modulator.make_state(*given) for modulator in block.modulators]  # type: ignore[operator]
            return BlockState(block.mixer.make_state(*given), block.ffn.make_state(*given), modulators)
        maker = self.part if self.carrier is None else self.carrier
        return maker.make_state(*given)

    def stir(self, seed: int = 1, amount: float = 0.1) -> None:
        """Move every weight away from its first value: what is zero at birth would hide every fault behind it."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator).to(weight.dtype), alpha=amount)


def _block(config: Mapping[str, Any], dims: Dims, registry: Registry) -> Block:
    def part(kind: str, place: str, node: Mapping[str, Any]) -> Any:
        return make_parts(kind, f"block.{place}", dict(node), dims, registry)[0].module

    mixer, ffn = (part(kind, kind, config[kind]) for kind in ("mixer", "ffn"))
    nodes = config.get("modulators", [])
    modulators = [(node["slot"], part("modulator", f"modulators.{k}", node)) for k, node in enumerate(nodes)]
    return Block(mixer, ffn, modulators, dims.d_model, dims.norm_eps)


class Sample:
    """A batch of inputs with everything that a layer may be told about them.

    Attributes:
        x: (B, T, D).
        tokens: (B, T) int64, the ids that x might stand for.
        condition: named vectors, (B, T, C).
        segments, positions: (B, T); segments is None if nothing was said.
    """

    def __init__(
        self,
        x: Tensor,
        condition: Mapping[str, Tensor] | None = None,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> None:
        self.x = x
        self.tokens = torch.zeros(x.shape[:2], dtype=torch.int64) if tokens is None else tokens
        self.condition = dict(condition or {})
        self.segments = segments
        self.positions = torch.arange(x.shape[1]).expand(x.shape[:2]) if positions is None else positions

    @classmethod
    def random(cls, B: int, T: int, dims: Dims, conditions: Mapping[str, int], seed: int = 0) -> Sample:
        """Normal inputs; a condition is the same for all tokens of a row."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(B, T, dims.d_model, generator=generator)
        rows = {name: torch.randn(B, 1, width, generator=generator) for name, width in conditions.items()}
        tokens = torch.randint(dims.vocab_size, (B, T), generator=generator)
        return cls(x, {name: row.expand(B, T, -1) for name, row in rows.items()}, tokens=tokens)

    def part(self, begin: int, end: int) -> Sample:
        """Tokens `begin` to `end` of every row."""
        condition = {name: value[:, begin:end] for name, value in self.condition.items()}
        segments = None if self.segments is None else self.segments[:, begin:end]
        cut = slice(begin, end)
        return Sample(self.x[:, cut], condition, segments, self.positions[:, cut], self.tokens[:, cut])

    def rows(self, index: Tensor | list[int]) -> Sample:
        """Some rows, in the order of `index`."""
        condition = {name: value[index] for name, value in self.condition.items()}
        segments = None if self.segments is None else self.segments[index]
        return Sample(self.x[index], condition, segments, self.positions[index], self.tokens[index])

    def to(self, device: str) -> Sample:
        """The same, there."""
        segments = None if self.segments is None else self.segments.to(device)
        condition = {name: value.to(device) for name, value in self.condition.items()}
        return Sample(self.x.to(device), condition, segments, self.positions.to(device), self.tokens.to(device))

    def context(self, state: Any = None, *, per_row: bool = False) -> Context:
        """The context of one pass; `per_row` gives conditions as (B, C), as a chat does."""
        condition = {name: value[:, 0] if per_row else value for name, value in self.condition.items()}
        return Context(self.positions, self.segments, condition, tokens=self.tokens, state=state)


def beside(samples: list[Sample]) -> Sample:
    """One packed row per row: the samples one after the other, as segments 1, 2, …"""
    first = samples[0]
    return Sample(
        torch.cat([s.x for s in samples], 1),
        {name: torch.cat([s.condition[name] for s in samples], 1) for name in first.condition},
        torch.cat([torch.full(s.x.shape[:2], i) for i, s in enumerate(samples, 1)], 1),
        torch.cat([s.positions for s in samples], 1),
        torch.cat([s.tokens for s in samples], 1),
    )


def padded(sample: Sample, left: list[int], right: list[int], seed: int = 9) -> Sample:
    """Each row with `left[b]` and `right[b]` tokens of noise around it, in segment 0; left + right is one constant."""
    B = sample.x.shape[0]
    generator = torch.Generator().manual_seed(seed)

    def around(row: int, value: Tensor, fill: float) -> Tensor:
        shape = list(value.shape[1:])
        before = torch.full((left[row], *shape[1:]), fill, dtype=value.dtype)
        after = torch.full((right[row], *shape[1:]), fill, dtype=value.dtype)
        return torch.cat([before, value[row], after])

    ones = torch.ones(sample.x.shape[:2], dtype=torch.int64)
    segments = torch.stack([around(b, ones, 0) for b in range(B)])
    x = torch.stack([around(b, sample.x, 0) for b in range(B)])
    noise = 3 * torch.randn(x.shape, generator=generator)
    condition = {n: torch.stack([around(b, v, 0) for b in range(B)]) for n, v in sample.condition.items()}
    positions = torch.stack([around(b, sample.positions, 0) for b in range(B)])
    tokens = torch.stack([around(b, sample.tokens, 0) for b in range(B)])
    return Sample(torch.where(segments[..., None] > 0, x, noise), condition, segments, positions, tokens)


def inner(y: Tensor, left: list[int], T: int) -> Tensor:
    """The outputs (B, T, D) of the real tokens of a padded sample."""
    return torch.stack([y[b, left[b] : left[b] + T] for b in range(y.shape[0])])
