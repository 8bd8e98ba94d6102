"""Mixture of Collaborative Experts, in place of a block's feed-forward layer.

Shape letters: B batch, T tokens, N = B·T, D width, E experts, K chosen, F hidden width of an expert.

Three stages, each switchable: a context (experts confer before the choice), a sparse dispatch without dropping, a
fusion (the chosen confer after it, or work one after the other). The output of a token depends on nothing but that
token, so the layer is causal, needs no decode state, and gives the same in a batch, alone, in prefill and in decoding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from luna_plugin_moe.balance import BalancedLayer, token_mask
from luna_plugin_moe.dispatch import combine, make_plan
from luna_plugin_moe.experts import Answers, run_experts
from luna_plugin_moe.routing import choose
from torch import Tensor, nn

from luna_kernel.base.errors import ConfigError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.contracts.routers import Router, Routing

from .autonomy import AutonomyContext, factored_mlp
from .config import MoCConfig
from .context import FullContext, ProbeContext, diversity, usual_rank
from .everyone import run_all, take_chosen
from .fusion import Conference

t = catalogue(__package__)


class Spoken(NamedTuple):
    """What the experts said in one round, and how they were chosen."""

    routing: Routing
    answers: Answers
    heard: Tensor | None = None
    """(N, H, E, E), who listened to whom before the choice."""
    probes: Tensor | None = None
    """(N, E, R) of the low-rank context."""


class Round(NamedTuple):
    """What is left of a round for losses and statistics."""

    routing: Routing
    heard: Tensor | None
    conferred: Tensor | None
    """(N, S, S), who listened to whom after the choice."""
    calibration: tuple[Tensor, Tensor] | None
    """Loss and R² of the probes."""


class CollaborativeExperts(BalancedLayer):
    """y = Σ_{k∈S} w_k E_k(x) + B (Σ_k w_k m_k + m_0), with S the top K of softmax(W_r x + ⟨v, c⟩) + b.

    With `fusion: chain`, R rounds of K/R experts with a router each: x⁰ = x, xʳ = xʳ⁻¹ + Σ_k w_k E_k(xʳ⁻¹), and
    y = x^R − x, for the block adds x itself (Wang et al. 2025, arXiv 2506.18945).

    Args:
        router: builds the router, which gives W_r x and the choice; None with `context: autonomy`, which has none.

    Raises:
        ConfigError: `context: full` with a number of heads that does not divide the model's width.
    """

    nested: ClassVar[Mapping[str, str]] = {"router": "router"}
    prefix = "moc"
    config: MoCConfig

    def __init__(self, config: MoCConfig, dims: Dims, *, router: Callable[..., Router] | None) -> None:
        super().__init__()
        self.make_balance(config)
        d, experts = dims.d_model, config.num_experts
        hidden = config.expert_dim or max(16, round(dims.ffn_dim / config.top_k / 16) * 16)
        self.rounds = config.rounds if config.fusion == "chain" else 1
        self.top_k = config.top_k // self.rounds
        """Experts of one round."""
        self.router = None if router is None else router(dims, experts, self.top_k)
        self.later_routers = nn.ModuleList(
            copy.deepcopy(self.router) for _ in range(self.rounds - 1) if self.router is not None
        )
        self.w2 = nn.Parameter(torch.empty(experts, d, hidden))
        if config.context == "autonomy":
            self.w3 = nn.Parameter(torch.empty(experts, hidden, d))
        else:
            self.w13 = nn.Parameter(torch.empty(experts, 2 * hidden, d))
        if config.shared_dim:
            self.shared_w13 = nn.Parameter(torch.empty(2 * config.shared_dim, d))
            self.shared_w2 = nn.Parameter(torch.empty(d, config.shared_dim))
        self.context = _make_context(config, dims, hidden)
        width = config.fusion_dim or max(16, d // 8)
        self.fusion = Conference(d, width, config.mediator) if config.fusion == "attend" else None
        self.stds = (dims.init_std, dims.residual_std)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the weights: the experts and the router as a plain mixture's, what confers with zeros at its end."""
        inner, last = self.stds
        for router in (self.router, *self.later_routers):
            if isinstance(router, Router):
                router.reset_parameters()
        nn.init.normal_(self.w3 if self.config.context == "autonomy" else self.w13, std=inner)
        nn.init.normal_(self.w2, std=last)
        if self.config.shared_dim:
            nn.init.normal_(self.shared_w13, std=inner)
            nn.init.normal_(self.shared_w2, std=last)
        if self.context is not None:
            self.context.reset_parameters()
        if self.fusion is not None:
            self.fusion.reset_parameters()
        self.reset_balance()

    def output_parameters(self) -> tuple[str, ...]:
        """The experts' last matrices: what the fusion adds is made of their outputs, unless a mediator speaks too."""
        shared = ("shared_w2",) if self.config.shared_dim else ()
        return ("w2", *shared, *(("fusion.up",) if self.config.mediator else ()))

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Map x (B, T, D) to (B, T, D). Padding (segment 0) passes through, and counts in no loss and no statistic."""
        flat = x.reshape(-1, x.shape[-1])
        device = x.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        mask = token_mask(ctx)
        watched = self.training or x.shape[1] > 1  # one token at a time is decoding: nobody reads statistics there
        with torch.autocast(device, enabled=False):
            exact = flat.to(torch.promote_types(x.dtype, torch.float32))
            y, state, rounds = None, exact, []
            for number in range(self.rounds):
                spoken = self._speak(number, state, low, ctx)
                said, table, index = spoken.answers
                conferred = None
                if self.fusion is not None:
                    more, conferred = self.fusion(table, spoken.routing.weights, index)
                    said = said + more
                y = said if y is None else y + said
                state = exact + y
                if watched:
                    rounds.append(Round(spoken.routing, spoken.heard, conferred, self._calibrate(spoken, mask)))
            assert y is not None
            if self.config.shared_dim:
                y = y + self._shared(flat.to(low))
            if watched:
                self._report(ctx, rounds, mask)
        return y.to(x.dtype).view_as(x)

    def _speak(self, number: int, x: Tensor, low: torch.dtype, ctx: Context) -> Spoken:
        """One round: who is chosen, and what they say; x (N, D) in float32 at least."""
        work = x.to(low)
        if isinstance(self.context, AutonomyContext):
            scores, stirred = self.context(x)
            routing = choose(scores, self.expert_bias, self.top_k)
            plan = make_plan(routing.experts, self.config.num_experts)
            up, w3 = self.context.up.to(low), self.w3.to(low)
            table = factored_mlp(work, stirred.to(low), up, w3, self.w2.to(low), plan, routing.experts)
            return Spoken(routing, _weighted(table, routing, plan.inverse))
        if isinstance(self.context, FullContext):
            return self._speak_all(number, x, work, ctx)
        scores = probes = heard = None
        if self.context is not None:
            scores, probes, heard = self.context(x)
        routing = self._route(number, x, ctx, scores)
        plan = make_plan(routing.experts, self.config.num_experts)
        return Spoken(routing, run_experts(work, self.w13, self.w2, routing.weights, plan), heard, probes)

    def _speak_all(self, number: int, x: Tensor, work: Tensor, ctx: Context) -> Spoken:
        """All experts speak, and are chosen after it."""
        assert isinstance(self.context, FullContext)
        w13, w2 = self.w13.to(work.dtype), self.w2.to(work.dtype)
        training = torch.is_grad_enabled()
        whole = self.config.full_gradient == "all"
        with torch.set_grad_enabled(training and whole):
            said, kept = run_all(work, w13, w2, keep=training)
        scores, heard = self.context(said)
        routing = self._route(number, x, ctx, scores.to(x.dtype))
        if training and not whole:
            plan = make_plan(routing.experts, self.config.num_experts)
            return Spoken(routing, take_chosen(work, w13, w2, routing.weights, plan, said, kept), heard)
        first = torch.arange(0, said.shape[0] * said.shape[1], said.shape[1], device=x.device)
        return Spoken(routing, _weighted(said.flatten(0, 1), routing, first[:, None] + routing.experts), heard)

    def _route(self, number: int, x: Tensor, ctx: Context, scores: Tensor | None) -> Routing:
        router = self.later_routers[number - 1] if number else self.router
        routing: Routing = router(x, ctx, self.expert_bias, scores)  # type: ignore[misc]
        return routing

    def _shared(self, x: Tensor) -> Tensor:
        gate, value = F.linear(x, self.shared_w13.to(x.dtype)).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * value, self.shared_w2.to(x.dtype))

    def _report(self, ctx: Context, rounds: list[Round], mask: Tensor | None) -> None:
        """All rounds together: tokens of several rounds are so many more tokens."""
        if mask is not None:
            mask = mask.repeat(len(rounds))
        parts = zip(*(r.routing for r in rounds), strict=True)
        self.report(ctx, Routing(*(_joined(part) for part in parts)), mask)  # type: ignore[arg-type]
        for name, attention in (
            ("context_diversity", _joined([r.heard for r in rounds])),
            ("fusion_diversity", _joined([r.conferred for r in rounds])),
        ):
            if attention is not None:
                ctx.add_metric(f"moc/{name}", diversity(attention, mask))
        found = [r.calibration for r in rounds if r.calibration is not None]
        if found:
            ctx.add_metric("moc/calibration_r2", torch.stack([fit for _, fit in found]).mean())
            if self.training:
                loss = torch.stack([loss for loss, _ in found]).mean()
                ctx.add_loss("moc/calibration", self.config.calibration_weight * loss)

    def _calibrate(self, spoken: Spoken, mask: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """How well the chosen experts' probes foretold what they said: the loss, and R²."""
        probes, (_, table, index) = spoken.probes, spoken.answers
        if not isinstance(self.context, ProbeContext) or probes is None or not self.config.calibration_weight:
            return None
        shape = (*index.shape, probes.shape[-1])
        said = F.linear(table.detach(), self.context.sketch.to(table.dtype))
        said = said.index_select(0, index.reshape(-1)).view(shape)
        first = torch.arange(0, probes.shape[0] * probes.shape[1], probes.shape[1], device=probes.device)
        chosen = probes.flatten(0, 1).index_select(0, (first[:, None] + spoken.routing.experts).view(-1)).view(shape)
        return self.context.calibration(chosen, said.to(probes.dtype), mask)

    def flops_per_token(self, context_length: int) -> float:
        """Forward operations per token; with `context: full` all experts run and all are counted."""
        config, context, rounds = self.config, self.context, self.rounds
        experts, d, hidden = self.w2.shape
        total = 2.0 * (config.top_k * d + 3 * d * config.shared_dim)
        if isinstance(self.router, Router):
            total += rounds * self.router.flops_per_token()
        if isinstance(context, AutonomyContext):
            rank = context.up.shape[2]
            total += rounds * context.flops() + 2.0 * config.top_k * hidden * (rank + 2 * d)
            return total + self._fusion_flops()
        running = rounds * experts if isinstance(context, FullContext) else config.top_k
        total += 2.0 * running * 3 * d * hidden
        if isinstance(context, ProbeContext):
            total += rounds * context.flops()
        elif isinstance(context, FullContext):
            total += rounds * context.flops(experts)
        return total + self._fusion_flops()

    def _fusion_flops(self) -> float:
        return 0.0 if self.fusion is None else self.fusion.flops(self.config.top_k)

    @classmethod
    def migrate(
        cls, weights: dict[str, Tensor], node: dict[str, Any], from_version: int
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Version 1 had its linear router's matrix as `router`; now it is the `weight` of a router of its own."""
        if from_version == 1:
            weights = {"router.weight" if name == "router" else name: value for name, value in weights.items()}
            node = {**node, "router": {"name": "topk"}}
        return weights, node


def _weighted(table: Tensor, routing: Routing, index: Tensor) -> Answers:
    return Answers(combine(table, routing.weights, index), table, index)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """What is there, one after the other; None if nothing is."""
    there = [part for part in parts if part is not None]
    return None if not there else there[0] if len(there) == 1 else torch.cat(there)


def _make_context(config: MoCConfig, dims: Dims, hidden: int) -> ProbeContext | FullContext | AutonomyContext | None:
    d, experts = dims.d_model, config.num_experts
    heads = config.context_heads or (dims.num_heads if config.context == "full" else 1)
    if config.context == "low_rank":
        return ProbeContext(d, experts, config.probe_rank or usual_rank(d, heads), heads)
    if config.context == "autonomy":
        return AutonomyContext(d, experts, hidden, config.autonomy_rank or max(1, d // 4), dims.init_std)
    if config.context == "full":
        if d % heads:
            raise ConfigError(t("full.heads", size=d, heads=heads), hint=t("full.heads.hint", size=d))
        return FullContext(d, heads, dims.norm_eps)
    return None
