"""Selective state space, a mixer that costs the same for every token however long the text.

Shape letters: B batch, T tokens, D width, I = H·P inner width, H heads, P channels of a head, N state numbers per
channel.

    [z, x, B, C, δ] = W_in u;  (x, B, C) = silu(conv(x, B, C));  Δ = softplus(δ + δ₀)
    h_t = exp(−e^{A_log} Δ_t) h_{t−1} + Δ_t x_t B_tᵀ;  y_t = h_t C_t + D x_t;  out = W_out · norm(y ⊙ silu(z))

Source: Dao and Gu 2024, "Transformers are SSMs", arXiv 2405.21060 (Mamba-2), with one group.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luna_kernel.base.errors import ConfigError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.layers import Context, Dims, Layer
from luna_kernel.model.linear import linear

from .config import StateSpaceConfig
from .gate import gate
from .scan import advance
from .sequence import Weights, run
from .state import SSMState, make_packing

t = catalogue(__package__)

LARGEST_HEAD, FEWEST_HEADS = 64, 4


class StateSpace(Layer):
    """Mixer (B, T, D) -> (B, T, D).

    Raises:
        ConfigError: `head_dim` does not divide the inner width.
    """

    def __init__(self, config: StateSpaceConfig, dims: Dims) -> None:
        super().__init__()
        self.config, self.eps = config, dims.norm_eps
        self.inner = config.expand * dims.d_model
        self.head_dim = config.head_dim or _head_dim(self.inner)
        if self.inner % self.head_dim:
            raise ConfigError(
                t("head_dim.divides", inner=self.inner, head_dim=self.head_dim),
                hint=t("head_dim.hint", inner=self.inner),
            )
        self.heads = self.inner // self.head_dim
        self.stds = (dims.init_std, dims.residual_std)
        self.channels = self.inner + 2 * config.state_dim
        self.in_proj = nn.Parameter(torch.empty(self.inner + self.channels + self.heads, dims.d_model))
        if config.conv_width:
            self.conv_weight = nn.Parameter(torch.empty(self.channels, config.conv_width))
            self.conv_bias = nn.Parameter(torch.empty(self.channels))
        self.step_bias = nn.Parameter(torch.empty(self.heads))
        self.rate_log = nn.Parameter(torch.empty(self.heads))
        self.skip = nn.Parameter(torch.empty(self.heads))
        self.norm = nn.Parameter(torch.empty(self.inner))
        self.out_proj = nn.Parameter(torch.empty(dims.d_model, self.inner))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the weights. A = −1 and steps from `step_min` to `step_max`, so a head remembers 1/step tokens."""
        config = self.config
        nn.init.normal_(self.in_proj, std=self.stds[0])
        nn.init.normal_(self.out_proj, std=self.stds[1])
        if config.conv_width:
            bound = 1 / math.sqrt(config.conv_width)
            nn.init.uniform_(self.conv_weight, -bound, bound)
            nn.init.zeros_(self.conv_bias)
        low, high = math.log(config.step_min), math.log(config.step_max)
        places = [head / (self.heads - 1) for head in range(self.heads)] if self.heads > 1 else [0.5]
        steps = [math.exp(low + (high - low) * place) for place in places]
        self.step_bias.copy_(torch.tensor([math.log(math.expm1(step)) for step in steps], device="cpu"))
        nn.init.zeros_(self.rate_log)
        nn.init.ones_(self.skip)
        nn.init.ones_(self.norm)

    def output_parameters(self) -> tuple[str, ...]:
        """The output's matrix."""
        return ("out_proj",)

    def make_state(self, batch: int, max_length: int, dtype: torch.dtype, device: torch.device) -> SSMState:
        """The state of `batch` fresh requests; its size does not depend on `max_length`."""
        exact = torch.promote_types(dtype, torch.float32)
        return SSMState(
            torch.zeros(batch, self.heads, self.head_dim, self.config.state_dim, dtype=exact, device=device),
            torch.zeros(batch, max(self.config.conv_width - 1, 0), self.channels, dtype=dtype, device=device),
            torch.zeros(batch, dtype=torch.int64, device=device),
        )

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Map x (B, T, D) to (B, T, D); with a state, continue from it and leave it after the last token."""
        state: SSMState | None = ctx.state
        if state is not None and x.shape[1] == 1 and ctx.segment_ids is None and not torch.is_grad_enabled():
            return self._step(x, state)
        fresh = state or self.make_state(x.shape[0], 0, x.dtype, x.device)
        packing = make_packing(ctx.segment_ids, fresh.segment)
        projected = linear(packing.move(x), self.in_proj)
        before = fresh.inputs.to(projected.dtype)
        out, hidden = run(
            projected,
            before,
            fresh.hidden,
            self._weights(),
            runs=packing.runs,
            real=packing.real,
            chunk_size=self.config.chunk_size,
            eps=self.eps,
        )
        if state is not None:
            state.hidden, state.segment = hidden, torch.where(packing.segment != 0, packing.segment, state.segment)
            if self.config.conv_width:
                u = projected[..., self.inner : self.inner + self.channels]
                state.inputs = packing.last_inputs(before, u).to(state.inputs.dtype)
        return packing.move_back(linear(out, self.out_proj)).to(x.dtype)

    def _weights(self) -> Weights:
        conv = (self.conv_weight.t().contiguous(), self.conv_bias) if self.config.conv_width else (None, None)
        return Weights(*conv, self.step_bias, -torch.exp(self.rate_log), self.skip, self.norm)

    def _step(self, x: Tensor, state: SSMState) -> Tensor:
        """One token of each request, x (B, 1, D)."""
        z, u, delta = linear(x[:, 0], self.in_proj).split_with_sizes([self.inner, self.channels, self.heads], dim=-1)
        exact = state.hidden.dtype
        mixed = u.to(exact)
        if self.config.conv_width:
            window = torch.cat([state.inputs.to(u.dtype), u[:, None]], dim=1)
            filtered = (window.to(exact) * self.conv_weight.t().to(exact)).sum(1) + self.conv_bias.to(exact)
            mixed, state.inputs = F.silu(filtered), window[:, 1:].to(state.inputs.dtype)
        inputs, write, read = mixed.split_with_sizes([self.inner, self.config.state_dim, self.config.state_dim], dim=-1)
        step, rate = F.softplus(delta.to(exact) + self.step_bias.to(exact)), -torch.exp(self.rate_log.to(exact))
        heads = inputs.unflatten(-1, (self.heads, self.head_dim))
        y, state.hidden = advance(heads, step, rate, write, read, state.hidden)
        state.segment = torch.where(state.segment != 0, state.segment, 1)
        skip = self.skip.to(exact).repeat_interleave(self.head_dim)
        out = gate(y.flatten(1), inputs, z.to(exact), skip, self.norm.to(exact), self.eps).to(u.dtype)
        return linear(out, self.out_proj)[:, None].to(x.dtype)

    def flops_per_token(self, context_length: int) -> float:
        """Forward operations per token; beyond one chunk they do not depend on `context_length`."""
        inner, width = self.inner, self.config.state_dim
        chunk = min(self.config.chunk_size, context_length)
        products = self.in_proj.numel() + self.out_proj.numel() + self.config.conv_width * self.channels
        return 2.0 * (products + chunk * (inner + width) + 2 * inner * width)


def _head_dim(inner: int) -> int:
    """The largest power of two up to 64 that makes at least four heads, so that memories of several lengths exist."""
    size = math.gcd(inner, LARGEST_HEAD)
    while size > 1 and inner // size < FEWEST_HEADS:
        size //= 2
    return size
