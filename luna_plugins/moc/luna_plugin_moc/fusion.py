"""What the chosen experts do after they have worked: confer, then answer together.

Shape letters: N tokens, K chosen experts, M = N·K, D width, C width of the conference.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context import fill


class Conference(nn.Module):
    """The task force: the chosen experts confer, y = Σ_k w_k y_k + B (Σ_k w_k m_k + m_0), with B zero at birth.

    m = Attention over the K states q_k = A y_k ∈ R^C and, if there is one, the mediator's learned state, whose own
    conclusion is m_0.
    """

    def __init__(self, d_model: int, width: int, mediator: bool) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(width, d_model))
        self.qkv = nn.Parameter(torch.empty(3 * width, width))
        self.up = nn.Parameter(torch.empty(d_model, width))
        self.mediator = nn.Parameter(torch.empty(width)) if mediator else None

    def reset_parameters(self) -> None:
        """Fill the weights; `up` is zero at birth."""
        fill(self.down)
        fill(self.qkv)
        nn.init.zeros_(self.up)
        if self.mediator is not None:
            nn.init.normal_(self.mediator)

    def forward(self, table: Tensor, weights: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """What the conference adds.

        Args:
            table: (M or more, D) experts' outputs.
            weights: (N, K).
            index: (N, K), the table's row of each chosen expert.

        Returns:
            (N, D) in the table's dtype; and who listened to whom (N, S, S), S = K or, with a mediator, K + 1.
        """
        n, k = index.shape
        width = self.down.shape[0]
        if table.shape[0] < 2 * n * k:  # nearly all rows are somebody's, and C numbers of each are fewer to gather
            states = F.linear(table, self.down.to(table.dtype)).index_select(0, index.reshape(-1))
        else:
            states = F.linear(table.index_select(0, index.reshape(-1)), self.down.to(table.dtype))
        qkv = self.qkv.to(table.dtype)
        sides = F.linear(states, qkv).view(n, k, 3 * width)
        if self.mediator is not None:
            sides = torch.cat([sides, F.linear(self.mediator.to(table.dtype), qkv).expand(n, 1, -1)], 1)
            weights = F.pad(weights, (0, 1), value=1.0)
        query, key, value = sides.split(width, dim=2)
        attention = torch.softmax((query @ key.transpose(1, 2)).to(weights.dtype) / math.sqrt(width), dim=-1)
        # Σ_k w_k m_k = Σ_j (Σ_k w_k a_kj) value_j: the weights go into the attention
        mixed = (weights[:, None] @ attention).to(table.dtype) @ value
        return F.linear(mixed.squeeze(1), self.up.to(table.dtype)), attention.detach()

    def flops(self, top_k: int) -> float:
        """Forward operations per token."""
        width, d = self.down.shape
        states = top_k + (self.mediator is not None)
        macs = top_k * width * (d + 3 * width) + states**2 * (width + 1) + states * width + width * d
        return 2.0 * macs
