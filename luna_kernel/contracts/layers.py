"""Layers: what a mixer, a feed-forward layer, a position scheme, an adapter or a modulator implements.

Shape letters: B batch, T tokens, D d_model, H heads, S tokens seen so far (cache included).

A block is `x + mixer(norm(x))`, then `x + ffn(norm(x))`; both layers map (B, T, D) to (B, T, D). A layer must be
causal: nothing at position t may depend on a later token, nor on another row of the batch, nor on padding. What it
remembers between calls lives in a state that belongs to the request (`make_state`), never in the module.

    class Doubler(Layer):
        def __init__(self, config, dims):
            super().__init__()
            self.scale = nn.Parameter(torch.full((dims.d_model,), 2.0))

        def forward(self, x, ctx):
            return x * self.scale

The conformance suite (`luna_kernel.testing`) holds a layer to all of this in three lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .dims import Dims

__all__ = ["PADDING_SEGMENT", "Context", "Dims", "Layer", "ModelPart", "Modulator", "Pairs", "Position"]

PADDING_SEGMENT = 0
"""`segment_ids` of padding; samples of a packed row count from 1."""


@dataclass
class Context:
    """What a layer is told besides its input, and where it leaves losses and metrics. One per forward pass.

    The decoder calls `begin_layer` before each block, and sets `state` before it calls each layer.
    """

    positions: Tensor
    """(B, T) int64, position of each token in its own sample; an expanded view when all rows are alike."""
    segment_ids: Tensor | None = None
    """(B, T) int; tokens see only tokens of their own segment. 0 is padding. None: one segment, no padding."""
    condition: dict[str, Tensor] = field(default_factory=dict)
    """Named vectors from outside, (B, C) or (B, T, C): emotion, persona, domain. A missing one counts as zeros."""
    position: Position | None = None
    """The model's position scheme, for mixers that use one."""
    tokens: Tensor | None = None
    """(B, T) int64, the ids that the model was given; set by the decoder. None when a layer runs on its own."""
    layer: int = 0
    """Index of the block."""
    state: Any = None
    """This layer's decode state, from its own `make_state`; None in training and in a pass without a cache."""
    recomputing: bool = False
    """This is activation checkpointing's second run of the block, inside the backward pass: count nothing again."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    reported: dict[str, Tensor] = field(default_factory=dict)
    """Metrics of the block at work, by the names that it gave them."""
    reported_before: dict[str, Tensor] = field(default_factory=dict)
    """Metrics of the blocks before it, by `<name>/<layer>`."""
    shared: dict[Any, Any] = field(default_factory=dict)
    """For tensors that several layers derive from the fields above (masks, cos/sin): computed once per pass."""

    def condition_rows(self, name: str) -> Tensor | None:
        """The vectors `condition[name]` as one row per token, (B·T, C), or None if nobody gave them."""
        value = self.condition.get(name)
        if value is None:
            return None
        B, T = self.positions.shape
        rows = value if value.dim() == 3 else value[:, None]
        return rows.expand(B, T, rows.shape[-1]).reshape(B * T, -1)

    def add_loss(self, name: str, value: Tensor) -> None:
        """Add `value`, a scalar, mean per token and already multiplied by its weight, to the training loss.

        The same name from several layers is summed. Name it `<component>/<what>`, such as `moc/balance`.
        """
        self.losses[name] = self.losses[name] + value if name in self.losses else value

    def add_metric(self, name: str, value: Tensor) -> None:
        """Report `value` (any shape, detached). Layers of one name are stacked by `<name>/<layer>`.

        The number is put to it outside of the block: compiled, equal blocks must not differ by it.
        """
        self.reported[name] = value.detach()

    @property
    def metrics(self) -> dict[str, Tensor]:
        """What all blocks have reported so far, by `<name>/<layer>`."""
        return self.reported_before | {f"{name}/{self.layer}": value for name, value in self.reported.items()}

    def begin_layer(self, index: int) -> None:
        """From now on block `index` is at work."""
        self.reported_before, self.reported, self.layer = self.metrics, {}, index


class ModelPart(nn.Module, ABC):
    """What layers, position schemes and modulators share.

    Args of the constructor: `config`, the component's validated pydantic model (None if it has none), and `dims`; for
    each component nested in it, by keyword, what builds that component.
    Build parameters with `torch.empty`, fill them in `reset_parameters`, and let the constructor call it: then the
    part can be made on the meta device and filled from a file. Matrices start with `dims.init_std`, those that write
    into the residual stream with `dims.residual_std`; `luna_kernel.model.linear.Linear` does both. A buffer that is
    not saved (`persistent=False`) is zeros when a model is opened: keep counters there, and compute tables on use.

    A part that is made of other components says which fields of its configuration are their nodes. Each is handed to
    the constructor under the field's name, to be called and kept there (None if the field is None):

        nested = {"router": "router"}                           # field of the configuration -> kind

        def __init__(self, config, dims, *, router):
            self.router = router(dims, config.num_experts, config.top_k)

    An old version of a component is opened by a class method, if there is one:
    `migrate(weights, node, from_version) -> (weights, node)`, both of one place, names without its prefix.
    """

    nested: ClassVar[Mapping[str, str]] = {}
    """Fields of the configuration that hold the node of another component, with its kind."""

    def reset_parameters(self) -> None:
        """Fill every parameter afresh. The default asks each child; override it for parameters of the part's own."""
        for child in self.children():
            reset = getattr(child, "reset_parameters", None)
            if reset is not None:
                reset()

    def output_parameters(self) -> tuple[str, ...]:
        """Names of the part's own parameters (relative to it) through which all that it does goes out.

        With all of them zero a layer gives exact zeros and a modulator is the identity, and a gradient still reaches
        them: growth copies a block and sets them to zero. Empty: the part does not say, and such a growth is refused.
        """
        return ()

    def conditions(self) -> Mapping[str, int]:
        """{name: C} of the vectors that the part itself, its children left aside, reads from `ctx.condition`.

        Training fills them from data that have them, a chat from what is said of the conversation."""
        return {}

    def condition_names(self) -> Mapping[str, Sequence[str]]:
        """{name: what its first dimensions are called} of conditions whose meaning the part fixes, such as emotions.

        The names of other conditions are found in the data of the training."""
        return {}

    def make_state(self, batch: int, max_length: int, dtype: torch.dtype, device: torch.device) -> Any:
        """A fresh decode state for `batch` requests of up to `max_length` tokens, or None if the part keeps none.

        A state may have `snapshot() -> taken` and `restore(taken)`; without them it is copied whole when a chat goes
        back to an earlier moment, so it must bear `copy.deepcopy`.
        """
        return None


class Layer(ModelPart):
    """A mixer or a feed-forward layer."""

    zero_init_output: bool = False
    """The layer gives exact zeros at birth, so that a block may be added to a trained model unchanged (tested)."""

    @abstractmethod
    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Map x (B, T, D) to (B, T, D). With `ctx.state` set, x continues what the state has seen, and the state is
        updated in place; prefill may come in any number of pieces."""

    def flops_per_token(self, context_length: int) -> float:
        """Forward floating-point operations per token (a multiply-add counts two) at `context_length` tokens.

        The default counts every parameter of a matrix once: right for dense layers only.
        """
        return float(sum(2 * p.numel() for p in self.parameters() if p.dim() >= 2))


@dataclass(frozen=True)
class Pairs:
    """Queries and keys that meet in one attention: a row per request, or one row where all are alike."""

    queries: Tensor
    """(B or 1, T) int64, the queries' positions."""
    keys: Tensor
    """(B or 1, S) int64, the keys' positions; the last T of them are the queries' own."""
    query_marks: Tensor | None = None
    """(B, T, M) int64, of `Position.marks`."""
    key_marks: Tensor | None = None
    """(B, S, M) int64."""


class Position(ModelPart):
    """A position scheme: it turns queries and keys, or biases the scores, or does neither."""

    def rotate(self, q: Tensor, k: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """Turn q (B, H, T, Dh) and k (B, Hk, T, Dh) by `ctx.positions`. The default leaves both as they are."""
        return q, k

    def marks(self, ctx: Context, last: Tensor | None) -> Tensor | None:
        """What else `bias` must know of each token, (B, T, M) int64, kept beside its key; None: nothing.

        Args:
            last: (B, M) marks of the token before these in the cache, padding or not; None if there is none.
        """
        return None

    def bias(self, ctx: Context, pairs: Pairs) -> Tensor | None:
        """What is added to the scores, (B or 1, H or 1, T, S); or None. Asked once per pass for all layers alike;
        pairs that do not see each other may get any finite number."""
        return None


class Modulator(ModelPart):
    """Wraps a layer's output, conditioned on `ctx.condition` or on the text so far; the identity at birth."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """Change the layer's output y (B, T, D), given its input x (B, T, D)."""
