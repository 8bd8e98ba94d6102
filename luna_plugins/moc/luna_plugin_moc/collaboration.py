"""How experts confer: before the choice (contexts) and after it (fusion).

Shape letters: N tokens, E experts, K chosen, D width, R rank of a probe, C width of the fusion, H heads.

Each stage ends in weights that are zero at birth (`score`, `up`), so a new layer is a plain sparse mixture to the bit,
and a trained plain mixture becomes a collaborative one without a change of its function.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fill(weight: Tensor) -> None:
    """A weight (out, in) that keeps the variance: normal with deviation 1/√in."""
    nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[-1]))


class ProbeContext(nn.Module):
    """The preliminary meeting, low rank: each expert shows a small probe of what it would say.

    z = D x ∈ R^R, p_e = silu(P_e z + u_e) ∈ R^R, c = p + Attention over the E probes, and the score of expert e is
    ⟨v, c_e⟩: from its own contextualised probe, so permuting experts permutes the scores.

    Only ⟨v, ·⟩ of the attended values is needed, so the value projection is folded into v and a value is one number per
    head; query and key projections meet only in their product, so one matrix per head serves both. Both are exact.
    """

    def __init__(self, d_model: int, num_experts: int, rank: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.down = nn.Parameter(torch.empty(rank, d_model))
        self.probe = nn.Parameter(torch.empty(num_experts, rank, rank))
        self.probe_bias = nn.Parameter(torch.empty(num_experts, rank))
        self.query = nn.Parameter(torch.empty(rank, rank))
        self.key = nn.Parameter(torch.empty(rank, rank))
        self.value = nn.Parameter(torch.empty(rank, rank))
        self.score = nn.Parameter(torch.empty(rank))
        self.sketch: Tensor
        self.register_buffer("sketch", torch.empty(rank, d_model))

    def reset_parameters(self) -> None:
        """Fill the weights; `score` is zero at birth. `sketch`, which the calibration foretells, is never trained."""
        for weight in (self.down, self.probe, self.query, self.key, self.value):
            fill(weight)
        nn.init.zeros_(self.probe_bias)
        nn.init.zeros_(self.score)
        fill(self.sketch)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, D) float32 -> scores (N, E) to add to the router's logits, and the probes (N, E, R)."""
        num_experts, rank = self.probe_bias.shape
        z = F.linear(x, self.down.to(x.dtype))
        flat = F.linear(z, self.probe.view(-1, rank).to(x.dtype), self.probe_bias.view(-1).to(x.dtype))
        probes = F.silu(flat).view(-1, num_experts, rank)
        size = rank // self.heads
        query, key, value = (w.to(x.dtype).view(self.heads, size, rank) for w in (self.query, self.key, self.value))
        score = self.score.to(x.dtype)
        values = torch.einsum("hs,hsr->rh", score.view(self.heads, size), value)  # (R, H)
        direct = probes @ torch.cat([score[:, None], values], dim=1)  # (N, E, 1 + H)
        scores = direct[..., 0]
        for head in range(self.heads):
            asked = probes @ (query[head].t() @ key[head] / math.sqrt(size))
            attention = torch.softmax(asked @ probes.transpose(1, 2), dim=-1)
            scores = scores + (attention @ direct[..., 1 + head, None]).squeeze(-1)
        return scores, probes

    def calibration(self, probes: Tensor, outputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """How well the probes of the chosen experts foretell a sketch of what they said.

        Args:
            probes: (N, K, R).
            outputs: (N, K, R), the sketch W_s·E_e(x), without gradient.
            mask: (N,) bool, tokens that count.

        Returns:
            The mean of ‖p_e − W_s E_e(x)‖², and R² = 1 − Σ error² / Σ (target − mean target)².
        """
        probes, outputs = probes.flatten(0, 1), outputs.detach().flatten(0, 1)
        error = (probes - outputs).square().sum(-1)
        keep = None if mask is None else mask.repeat_interleave(probes.shape[0] // mask.shape[0])
        count = error.new_tensor(error.shape[0]) if keep is None else keep.sum().clamp_min(1)
        if keep is not None:
            error = torch.where(keep, error, 0)
            outputs = torch.where(keep[:, None], outputs, 0)
        loss = error.sum() / count
        spread = outputs.square().sum(-1).sum() / count - (outputs.sum(0) / count).square().sum()
        return loss, 1 - loss.detach() / spread.clamp_min(torch.finfo(spread.dtype).tiny)

    def flops(self) -> float:
        """Forward operations per token."""
        num_experts, rank = self.probe_bias.shape
        macs = self.down.numel() + self.probe.numel() + self.heads * num_experts * rank * (rank + num_experts)
        return 2.0 * (macs + num_experts * rank * (1 + self.heads) + self.heads * num_experts**2)


class FullContext(nn.Module):
    """The full meeting: every expert has spoken, and their outputs attend to each other. Costs all experts.

    c_e = norm(O_e + Attention(O)_e) over the E outputs of one token, and the score of expert e is ⟨v, c_e⟩. The norm
    carries no weight of its own: v would undo it.
    """

    def __init__(self, d_model: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads, self.eps = heads, eps
        self.qkv = nn.Parameter(torch.empty(3 * d_model, d_model))
        self.out = nn.Parameter(torch.empty(d_model, d_model))
        self.score = nn.Parameter(torch.empty(d_model))

    def reset_parameters(self) -> None:
        """Fill the weights; `score` is zero at birth."""
        fill(self.qkv)
        fill(self.out)
        nn.init.zeros_(self.score)

    def forward(self, outputs: Tensor) -> Tensor:
        """outputs (E, N, D) -> scores (N, E), float32 at least, to add to the router's logits."""
        e, n, d = outputs.shape
        exact = torch.promote_types(outputs.dtype, torch.float32)
        qkv = F.linear(outputs, self.qkv.to(outputs.dtype)).view(e, n, 3, self.heads, d // self.heads)
        query, key, value = qkv.permute(2, 1, 3, 0, 4)  # each (N, H, E, D/H)
        attention = torch.softmax((query @ key.transpose(2, 3)).to(exact) / math.sqrt(d // self.heads), dim=-1)
        spoken = (attention.to(value.dtype) @ value).permute(2, 0, 1, 3).reshape(e, n, d)
        heard = (outputs + F.linear(spoken, self.out.to(outputs.dtype))).to(exact)
        scale = torch.rsqrt(heard.square().mean(-1) + self.eps)
        return ((heard @ self.score.to(heard.dtype)) * scale).t()

    def flops(self, num_experts: int) -> float:
        """Forward operations per token."""
        d = self.score.numel()
        return 2.0 * num_experts * (4 * d * d + 2 * num_experts * d + 2 * d)


class Fusion(nn.Module):
    """The task force: the chosen experts confer, y = Σ_k w_k y_k + B Σ_k w_k m_k, with B zero at birth.

    m = Attention over the K states q_k = A y_k ∈ R^C.
    """

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(width, d_model))
        self.qkv = nn.Parameter(torch.empty(3 * width, width))
        self.up = nn.Parameter(torch.empty(d_model, width))

    def reset_parameters(self) -> None:
        """Fill the weights; `up` is zero at birth."""
        fill(self.down)
        fill(self.qkv)
        nn.init.zeros_(self.up)

    def forward(self, table: Tensor, weights: Tensor, index: Tensor) -> Tensor:
        """What the conference adds.

        Args:
            table: (R, D) experts' outputs.
            weights: (N, K).
            index: (N, K), the table's row of each chosen expert.

        Returns:
            (N, D) in the table's dtype.
        """
        n, k = index.shape
        width = self.down.shape[0]
        if table.shape[0] == n * k:
            states = F.linear(table, self.down.to(table.dtype)).index_select(0, index.reshape(-1))
        else:
            states = F.linear(table.index_select(0, index.reshape(-1)), self.down.to(table.dtype))
        query, key, value = F.linear(states, self.qkv.to(table.dtype)).view(n, k, 3, width).unbind(2)
        scores = (query @ key.transpose(1, 2)).to(weights.dtype) / math.sqrt(width)
        # Σ_k w_k m_k = Σ_j (Σ_k w_k a_kj) value_j: the weights go into the attention
        mixed = (weights[:, None] @ torch.softmax(scores, dim=-1)).to(table.dtype) @ value
        return F.linear(mixed.squeeze(1), self.up.to(table.dtype))

    def flops(self, top_k: int) -> float:
        """Forward operations per token."""
        width, d = self.down.shape
        return 2.0 * (top_k * width * (d + 3 * width + top_k) + top_k**2 + top_k * width + width * d)
