"""The decoder: embedding, pre-norm blocks, norm, head. In the Llama shape when the blocks hold the kernel's layers.

Weights: `embedding.weight`, `blocks.N.mixer_norm.weight`, `blocks.N.mixer.*`, `blocks.N.ffn_norm.weight`,
`blocks.N.ffn.*`, `blocks.N.modulators.K.*`, `norm.weight`, and `head.weight` unless it is tied to the embedding. What
is nested in a layer has its place below it, such as `blocks.N.ffn.router.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.layers import Context, Layer, ModelPart, Modulator, Position
from luna_kernel.plugins.registry import Registry

from .blueprint import Block as BlockPlan
from .blueprint import Blueprint, Node
from .linear import Linear, linear
from .loss_head import linear_cross_entropy
from .norm import RMSNorm
from .parts import Part, make_parts
from .recompute import run_block
from .state import BlockState, DecodeState

t = catalogue(__package__)

PREFILL_PIECE = 512
"""Tokens of a prompt that go through a model at once, unless its caches are limited to less."""


@dataclass
class Output:
    """What a forward pass gives."""

    logits: Tensor
    """(B, T, V)."""
    losses: dict[str, Tensor]
    """What layers added by `ctx.add_loss`, scalars."""
    metrics: dict[str, Tensor]


@dataclass
class LossOutput:
    """What a training pass gives."""

    sum_loss: Tensor
    """Sum over tokens of weight · cross-entropy in nats, a float32 scalar."""
    losses: dict[str, Tensor]
    """What layers added by `ctx.add_loss`: scalars, a mean per token, to be added to the mean loss."""
    metrics: dict[str, Tensor]


class Block(nn.Module):
    """x + mixer(norm(x)), then x + ffn(norm(x)); a modulator changes a layer's output before it is added."""

    def __init__(self, mixer: Layer, ffn: Layer, modulators: list[tuple[str, Modulator]], dim: int, eps: float) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(dim, eps)
        self.mixer = mixer
        self.ffn_norm = RMSNorm(dim, eps)
        self.ffn = ffn
        self.modulators = nn.ModuleList(modulator for _, modulator in modulators)
        self.slots = [slot for slot, _ in modulators]

    def parts(self) -> list[Any]:
        """What has weights, in the order in which they are filled."""
        return [self.mixer_norm, self.mixer, self.ffn_norm, self.ffn, *self.modulators]

    def forward(self, x: Tensor, ctx: Context, state: BlockState | None = None) -> Tensor:
        """x (B, T, D) to (B, T, D)."""
        x = x + self._run("mixer", self.mixer_norm(x), ctx, state)
        return x + self._run("ffn", self.ffn_norm(x), ctx, state)

    def _run(self, slot: str, x: Tensor, ctx: Context, state: BlockState | None) -> Tensor:
        ctx.state = None if state is None else getattr(state, slot)
        y: Tensor = getattr(self, slot)(x, ctx)
        for k, modulator in enumerate(self.modulators):
            if self.slots[k] == slot:
                ctx.state = None if state is None else state.modulators[k]
                y = modulator(x, y, ctx)
        return y


class Decoder(nn.Module):
    """A decoder language model, built from a blueprint and the registry of the plugins that are on.

    Raises:
        UsageError: a component is not registered; names its place and, where known, its package. Or two components want
            one condition in different widths.
        ConfigError: a node does not validate; names its place.

    Attributes:
        prefill_piece: tokens of a prompt that go through it at once; `limit_cache` lowers it.
        recompute_every: in training every so many-th block keeps its input alone and runs again in the backward pass;
            0: none does.
        compiled: what is called instead of the blocks in training; see `compile_blocks`.
    """

    def __init__(self, blueprint: Blueprint, registry: Registry) -> None:
        super().__init__()
        dims = blueprint.dims
        self.blueprint = blueprint
        self.dims = dims
        self.prefill_piece = PREFILL_PIECE
        self.recompute_every = 0
        self.compiled: list[Any] = []
        self.parts: list[Part] = []
        self.embedding = Embedding(dims.vocab_size, dims.d_model, dims.init_std)
        self.position: Position | None = None
        if blueprint.position is not None:
            self.position = self._make("position", "position", blueprint.position, registry)
        self.blocks = nn.ModuleList(
            self._make_block(index, plan, registry) for index, plan in enumerate(blueprint.blocks)
        )
        self.norm = RMSNorm(dims.d_model, dims.norm_eps)
        self.head: Linear | None = None
        if not blueprint.tie_embeddings:
            self.head = Linear(dims.d_model, dims.vocab_size, std=dims.init_std)
        self.condition_names: dict[str, tuple[str, ...]] = {}
        """{name: what the first dimensions are called} of those whose meaning a component fixes."""
        self.conditions = self._conditions()
        """{name: C} of the condition vectors that the model reads."""

    def _make(self, kind: str, place: str, node: Node, registry: Registry) -> Any:
        parts = make_parts(kind, place, node, self.dims, registry)
        self.parts += parts
        return parts[0].module

    def _conditions(self) -> dict[str, int]:
        widths: dict[str, int] = {}
        first: dict[str, str] = {}
        for part in self.parts:
            for module in (module for module in part.module.modules() if isinstance(module, ModelPart)):
                for name, names in module.condition_names().items():
                    if self.condition_names.setdefault(name, tuple(names)) != tuple(names):
                        raise UsageError(t("decoder.two_meanings", condition=name, second=part.place))
                for name, width in module.conditions().items():
                    if widths.setdefault(name, width) != width:
                        fields = {"condition": name, "first": first[name], "second": part.place}
                        text = t("decoder.two_widths", **fields, width=widths[name], other=width)
                        raise UsageError(text, hint=t("decoder.two_widths.hint"))
                    first.setdefault(name, part.place)
        return widths

    def _make_block(self, index: int, plan: BlockPlan, registry: Registry) -> Block:
        place = f"blocks.{index}"
        mixer = self._make("mixer", f"{place}.mixer", plan.mixer, registry)
        ffn = self._make("ffn", f"{place}.ffn", plan.ffn, registry)
        modulators = [
            (node.get("slot", "ffn"), self._make("modulator", f"{place}.modulators.{k}", node, registry))
            for k, node in enumerate(plan.modulators)
        ]
        return Block(mixer, ffn, modulators, self.dims.d_model, self.dims.norm_eps)

    @property
    def resolved_blueprint(self) -> Blueprint:
        """The blueprint with every field of every configuration written out, from the live model."""
        blueprint = self.blueprint
        for part in self.parts:  # a nested node is part of the node around it, and comes after it
            blueprint = blueprint.with_node(part.place, part.node)
        return blueprint

    @property
    def head_weight(self) -> Tensor:
        """(V, D): the head's matrix, or the embedding if they are tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def reset_parameters(self) -> None:
        """Fill every weight afresh, in a fixed order: the same seed gives the same weights. For after `to_empty`."""
        parts: list[Any] = []
        for child in self.children():
            parts += (
                [part for block in self.blocks for part in _block(block).parts()] if child is self.blocks else [child]
            )
        for part in parts:
            part.reset_parameters()

    def forward(
        self,
        tokens: Tensor,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        condition: Mapping[str, Tensor] | None = None,
        state: DecodeState | None = None,
        *,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
        last_only: bool = False,
    ) -> Output | LossOutput:
        """One pass.

        Args:
            tokens: (B, T) int64.
            segment_ids: (B, T) int64; tokens see only their own segment; 0 is padding. None: one segment per row.
            positions: (B, T) int64; None: counted from 0 in each segment, or from where `state` stands.
            condition: named vectors, (B, C) or (B, T, C), of those in `conditions`; a missing one counts as zeros.
            state: from `make_state`; the pass continues it.
            targets: (B, T) int64: give the loss instead of the logits (`token_losses`); in `forward`, so that DDP and
                `fully_shard`, which wrap it, see every pass.
            weights: (B, T), of each target; None: all 1.
            last_only: logits of the last token only, (B, 1, V).

        Returns:
            `Output`, or `LossOutput` if `targets` is given.
        """
        hidden, ctx = self._run(tokens, segment_ids, positions, condition, state)
        if targets is not None:
            loss = linear_cross_entropy(hidden, self.head_weight, targets, weights)
            return LossOutput(loss, ctx.losses, ctx.metrics)
        if last_only:
            hidden = hidden[:, -1:]
        return Output(linear(hidden, self.head_weight), ctx.losses, ctx.metrics)

    def hidden(
        self, tokens: Tensor, segment_ids: Tensor | None = None, condition: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Hidden states (B, T, D) after the last norm, what the head reads; see `forward`."""
        return self._run(tokens, segment_ids, None, condition, None)[0]

    def token_losses(
        self,
        tokens: Tensor,
        targets: Tensor,
        weights: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        condition: Mapping[str, Tensor] | None = None,
    ) -> LossOutput:
        """Sum of weight · cross-entropy over `targets` (B, T), without ever holding all logits; see `forward`."""
        output = self(tokens, segment_ids, positions, condition, targets=targets, weights=weights)
        assert isinstance(output, LossOutput)
        return output

    def make_state(self, batch: int, max_length: int, dtype: torch.dtype | None = None) -> DecodeState:
        """A fresh decode state for `batch` requests of up to `max_length` tokens each, padding included.

        Args:
            dtype: of the caches; None: autocast's if it is on, else the weights'.
        """
        device = self.embedding.weight.device
        if dtype is None:
            on = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if on else self.embedding.weight.dtype

        def make(layer: Any) -> Any:
            return layer.make_state(batch, max_length, dtype, device)

        blocks = [
            BlockState(make(block.mixer), make(block.ffn), [make(modulator) for modulator in block.modulators])
            for block in map(_block, self.blocks)
        ]
        start = torch.zeros(batch, dtype=torch.int64, device=device)
        return DecodeState(blocks, batch, max_length, start)

    def _run(
        self,
        tokens: Tensor,
        segment_ids: Tensor | None,
        positions: Tensor | None,
        condition: Mapping[str, Tensor] | None,
        state: DecodeState | None,
    ) -> tuple[Tensor, Context]:
        """Hidden states (B, T, D) after the last norm."""
        T = tokens.shape[1]
        for name, vector in (condition or {}).items():
            if self.conditions.get(name, vector.shape[-1]) != vector.shape[-1]:
                raise ValueError(f"condition {name!r} has width {vector.shape[-1]}, not {self.conditions[name]}")
        if positions is None and state is not None:
            positions = state.positions_of(T, segment_ids)
        if positions is None:
            positions = segment_positions(tokens, segment_ids)
        ctx = Context(positions, segment_ids, dict(condition or {}), self.position, tokens)
        x = self.embedding(tokens)
        learns = self.training and torch.is_grad_enabled() and state is None
        blocks = self.compiled if self.compiled and learns else self.blocks
        for index, block in enumerate(blocks):
            ctx.begin_layer(index)
            if learns and self._lets_go(index):
                x = run_block(block, x, ctx)
            else:
                x = block(x, ctx, None if state is None else state.blocks[index])
        if state is not None:
            state.advance(T, positions, segment_ids)
        return self.norm(x), ctx

    def _lets_go(self, index: int) -> bool:
        """Whether block `index` runs again in the backward pass instead of keeping its activations."""
        every = self.recompute_every
        return every > 0 and (index + 1) % every == 0

    def compile_blocks(self) -> None:
        """From now on training runs blocks made by `torch.compile`; whatever else the model does stays as it is.

        Each by itself: equal blocks share what the compiler made, which takes a tenth of the time for the whole model
        and is no slower.
        """
        self.compiled = [torch.compile(block) for block in self.blocks]


class Embedding(nn.Embedding):
    """Token ids (B, T) to (B, T, D)."""

    def __init__(self, vocab_size: int, dim: int, std: float) -> None:
        self.std = std
        super().__init__(vocab_size, dim)

    def reset_parameters(self) -> None:
        """Normal, `init_std`."""
        nn.init.normal_(self.weight, std=self.std)


def segment_positions(tokens: Tensor, segment_ids: Tensor | None) -> Tensor:
    """Positions (B, T) of tokens (B, T), counted from 0 at the start of each segment."""
    index = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    if segment_ids is None:
        return index
    new = torch.ones_like(segment_ids, dtype=torch.bool)
    new[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return index - torch.where(new, index, 0).cummax(1).values


def _block(module: nn.Module) -> Block:
    assert isinstance(module, Block)
    return module
