"""What the router knows of the experts before it chooses.

Shape letters: N tokens, E experts, K chosen, D width, R rank of a probe, H heads.

The scores of `ProbeContext` and `FullContext` end in a weight that is zero at birth (`score`), so a new layer is a
plain sparse mixture to the bit, and a trained plain mixture becomes a collaborative one without a change of its
function.
"""

from __future__ import annotations

import math

import torch
from luna_plugin_moe.routing import entropy, token_mean
from torch import Tensor, nn

from .meeting import confer
from .probes import meet


def fill(weight: Tensor) -> None:
    """A weight (out, in) that keeps the variance: normal with deviation 1/√in."""
    nn.init.normal_(weight, std=1 / math.sqrt(weight.shape[-1]))


def diversity(attention: Tensor, mask: Tensor | None) -> Tensor:
    """Mutual information between the token and whom one listens to: H(mean a) − mean H(a), in nats.

    High when each token's attention is decided and differs between tokens. Averaging over all (H(a) at its largest) has
    none of it, which a plain entropy would praise most.

    Args:
        attention: (N, …, S), each row sums to 1.
        mask: (N,) bool, tokens that count.

    Returns:
        A scalar, 0 to ln S: the mean over all but the first and the last dimension.
    """
    attention = attention.detach()
    return (entropy(token_mean(attention, mask)) - token_mean(entropy(attention), mask)).mean()


def usual_rank(d_model: int, heads: int) -> int:
    """Of a probe: a sixteenth of the width, at least 16, and in whole numbers for each head."""
    return heads * -(-max(16, d_model // 16) // heads)


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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, D) float32 -> scores (N, E) to add to the router's logits, the probes (N, E, R), and who listened to
        whom (N, H, E, E)."""
        rank = self.probe_bias.shape[1]
        size = rank // self.heads
        query, key, value = (w.to(x.dtype).view(self.heads, size, rank) for w in (self.query, self.key, self.value))
        score = self.score.to(x.dtype)
        pairs = (query.transpose(1, 2) @ key / math.sqrt(size)).transpose(0, 1).reshape(rank, -1)  # (R, H·R)
        values = torch.einsum("hs,hsr->rh", score.view(self.heads, size), value)  # (R, H)
        wide = torch.cat([pairs, score[:, None], values], dim=1)
        down, probe, bias = (w.to(x.dtype) for w in (self.down, self.probe.view(-1, rank), self.probe_bias.view(-1)))
        return meet(x, down, probe, bias, wide, self.heads)

    def calibration(self, probes: Tensor, outputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """How well the probes of the chosen experts foretell a sketch of what they said.

        Args:
            probes: (N, K, R).
            outputs: (N, K, R), the sketch W_s·E_e(x), without gradient.
            mask: (N,) bool, tokens that count.

        Returns:
            Σ ‖p_e − W_s E_e(x)‖² / Σ (‖p_e‖² + ‖W_s E_e(x)‖²), the divisor without gradient: from 0 to 2 whatever the
            experts' size, or it would outgrow the language's loss as they grow; and R² = 1 − Σ error² /
            Σ (target − mean target)².
        """
        probes, outputs = probes.flatten(0, 1), outputs.detach().flatten(0, 1)
        error = (probes - outputs).square().sum(-1)
        size = (probes.detach().square() + outputs.square()).sum(-1)
        keep = None if mask is None else mask.repeat_interleave(probes.shape[0] // mask.shape[0])
        count = error.new_tensor(error.shape[0]) if keep is None else keep.sum().clamp_min(1)
        if keep is not None:
            error, size = torch.where(keep, error, 0), torch.where(keep, size, 0)
            outputs = torch.where(keep[:, None], outputs, 0)
        tiny = torch.finfo(error.dtype).tiny
        spread = outputs.square().sum() - outputs.sum(0).square().sum() / count
        return error.sum() / size.sum().clamp_min(tiny), 1 - error.detach().sum() / spread.clamp_min(tiny)

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

    def forward(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """outputs (N, E, D) -> scores (N, E), float32 at least, to add to the router's logits; and who listened to
        whom (N, H, E, E)."""
        exact = torch.promote_types(outputs.dtype, torch.float32)
        qkv, out, score = (weight.to(exact) for weight in (self.qkv, self.out, self.score))
        return confer(outputs, qkv, out, score, self.heads, self.eps)

    def flops(self, num_experts: int) -> float:
        """Forward operations per token of a long text: with one head two of the four projections fold away."""
        d = self.score.numel()
        return 2.0 * num_experts * ((2 if self.heads == 1 else 4) * d * d + 2 * num_experts * d + 2 * d)
