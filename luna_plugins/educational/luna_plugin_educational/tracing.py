"""Reading an answer once more, with eyes open: the tensors of one pass, as the model itself makes them.

Shape letters: T tokens, D width, H heads, E experts, K chosen, V vocabulary. A pass has one row; its axis is dropped.

Forward hooks look at what the modules are given and give. Attention weights come from the layer's own `weights`, the
steps of a state space from its own projection; nothing here computes a layer's output a second way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luna_kernel.contracts.routers import Router, Routing
from luna_kernel.model.attention import Attention
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.state import DecodeState


@dataclass
class BlockSeen:
    """What one block did to the stream, norms at each token (T,)."""

    mixer: str
    ffn: str
    read: Tensor
    """‖x‖ before the block."""
    mixed: Tensor
    """‖y‖ that the mixer, and its modulators left aside, gave."""
    fed: Tensor
    """The same of the feed-forward layer."""
    written: Tensor
    """‖x‖ after it."""


@dataclass
class StateSpaceSeen:
    """One state-space layer."""

    place: str
    step: Tensor
    """(T, H) Δ, how much of a token is written."""
    decay: Tensor
    """(T, H) a = exp(-e^A Δ), what is left of the state."""
    state_norm: Tensor
    """(H,) ‖h‖ after the last token."""

    @property
    def memory(self) -> Tensor:
        """(H,) tokens after which 1/e of a memory is left, at the mean decay of these tokens."""
        return -1.0 / self.decay.double().log().mean(0)


@dataclass
class RoutingSeen:
    """One router's choice."""

    place: str
    routing: Routing


@dataclass
class ConferenceSeen:
    """Who listened to whom among experts: (T, S, S), rows sum to 1; S experts, a mediator the last of them."""

    place: str
    attention: Tensor


@dataclass
class Trace:
    """One pass."""

    ids: list[int]
    embeddings: Tensor
    """(T, D)."""
    hidden: Tensor
    """(T, D), what the head reads."""
    blocks: list[BlockSeen]
    attention: dict[str, Tensor]
    """By place, (H, T, T), of the block that was asked for."""
    spaces: list[StateSpaceSeen]
    routings: list[RoutingSeen]
    conferences: list[ConferenceSeen]
    metrics: dict[str, Tensor]
    state: DecodeState
    """After all tokens."""


@dataclass
class _Eyes:
    """Hooks that look, and what they saw."""

    model: Decoder
    attention_of: int | None
    embeddings: Tensor | None = None
    hidden: Tensor | None = None
    read: dict[int, Tensor] = field(default_factory=dict)
    mixed: dict[int, Tensor] = field(default_factory=dict)
    fed: dict[int, Tensor] = field(default_factory=dict)
    written: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    routings: list[RoutingSeen] = field(default_factory=list)
    conferences: list[ConferenceSeen] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)

    def open(self) -> None:
        """Put the hooks."""
        model = self.model
        self._on(model.embedding, lambda _, args, out: setattr(self, "embeddings", out[0]))
        self._on(model.norm, lambda _, args, out: setattr(self, "hidden", out[0]))
        for index, module in enumerate(model.blocks):
            block: Any = module
            self._on(block, self._block(index))
            self._on(block.mixer, self._norm(self.mixed, index))
            self._on(block.ffn, self._norm(self.fed, index))
        space = _state_space()
        for name, module in model.named_modules():
            if isinstance(module, Attention) and name.startswith(f"blocks.{self.attention_of}."):
                self._on(module, self._attend(name))
            elif space is not None and isinstance(module, space):
                self._on(module, self._space(name))
            elif isinstance(module, Router):
                self._on(module, self._route(name))
            elif name.endswith((".ffn.fusion", ".ffn.context")):
                self._on(module, self._confer(name))

    def close(self) -> None:
        """Take them away."""
        for handle in self.handles:
            handle.remove()

    def _on(self, module: nn.Module, hook: Callable[..., None]) -> None:
        self.handles.append(module.register_forward_hook(hook))

    def _block(self, index: int) -> Callable[..., None]:
        def see(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            self.read[index], self.written[index] = args[0][0].float().norm(dim=-1), out[0].float().norm(dim=-1)

        return see

    def _norm(self, into: dict[int, Tensor], index: int) -> Callable[..., None]:
        def see(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            into[index] = out[0].float().norm(dim=-1)

        return see

    def _attend(self, name: str) -> Callable[..., None]:
        def see(module: Any, args: tuple[Any, ...], out: Tensor) -> None:
            self.attention[name] = module.weights(args[0], args[1])[0][0]

        return see

    def _space(self, name: str) -> Callable[..., None]:
        def see(module: Any, args: tuple[Any, ...], out: Tensor) -> None:
            delta = F.linear(args[0], module.in_proj)[0, :, module.inner + module.channels :].float()
            step = F.softplus(delta + module.step_bias.float())
            self.steps[name] = (step, torch.exp(-torch.exp(module.rate_log.float()) * step))

        return see

    def _route(self, name: str) -> Callable[..., None]:
        def see(_: nn.Module, args: tuple[Any, ...], out: Routing) -> None:
            self.routings.append(RoutingSeen(name, out))

        return see

    def _confer(self, name: str) -> Callable[..., None]:
        """What confers gives its attention last: (T, S, S), or (T, H, E, E), whose heads are averaged."""

        def see(_: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            last = out[-1] if isinstance(out, tuple) and len(out) > 1 else None
            if not isinstance(last, Tensor) or last.dim() not in (3, 4) or last.shape[-1] != last.shape[-2]:
                return
            seen = last.float() if last.dim() == 3 else last.float().mean(1)
            if torch.allclose(seen.sum(-1), torch.ones_like(seen[..., 0]), atol=1e-3):
                self.conferences.append(ConferenceSeen(name, seen))

        return see


@torch.no_grad()
def trace(
    model: Decoder,
    ids: Sequence[int],
    *,
    condition: Mapping[str, Tensor] | None = None,
    attention_of: int | None = None,
) -> Trace:
    """Read `ids` in one pass and keep what is made on the way.

    Args:
        model: in eval mode.
        ids: T tokens, one at least.
        condition: vectors (1, C) of the turn.
        attention_of: the block whose attention weights are kept; None: of none.
    """
    eyes = _Eyes(model, attention_of)
    state = model.make_state(1, max(len(ids), 1))
    eyes.open()
    try:
        tokens = torch.tensor([list(ids)], device=model.embedding.weight.device)
        output = model(tokens, condition=condition, state=state, last_only=True)
    finally:
        eyes.close()
    assert eyes.embeddings is not None
    assert eyes.hidden is not None
    names = {part.place: part.component.name for part in model.parts}
    blocks = [
        BlockSeen(
            names[f"blocks.{i}.mixer"],
            names[f"blocks.{i}.ffn"],
            eyes.read[i],
            eyes.mixed[i],
            eyes.fed[i],
            eyes.written[i],
        )
        for i in range(len(model.blocks))
    ]
    spaces = [
        StateSpaceSeen(place, step, decay, _state_norm(state, place)) for place, (step, decay) in eyes.steps.items()
    ]
    return Trace(
        list(ids), eyes.embeddings, eyes.hidden, blocks, eyes.attention, spaces, eyes.routings, eyes.conferences,
        output.metrics, state,
    )  # fmt: skip


def attention_blocks(model: Decoder) -> dict[int, int]:
    """Blocks that have attention, with their number of heads."""
    found: dict[int, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention) and name.startswith("blocks."):
            found[int(name.split(".")[1])] = module.num_heads
    return found


def logits_of(model: Decoder, hidden: Tensor) -> Tensor:
    """Logits (…, V) of hidden states (…, D), in float32."""
    return F.linear(hidden, model.head_weight).float()


def _state_norm(state: DecodeState, place: str) -> Tensor:
    """‖h‖ of each head (H,) in the layer at `place`, such as `blocks.1.mixer` or `blocks.1.mixer.ssm`."""
    _, index, slot, *inner = place.split(".")
    own = getattr(state.blocks[int(index)], slot)
    for name in inner:
        own = getattr(own, name)
    norms: Tensor = own.hidden[0].float().flatten(1).norm(dim=-1)
    return norms


def _state_space() -> type | None:
    """The state-space layer, where its plugin is installed."""
    try:
        from luna_plugin_ssm.layer import StateSpace
    except ImportError:
        return None
    found: type = StateSpace
    return found
