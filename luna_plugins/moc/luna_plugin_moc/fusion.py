"""What the chosen experts do after they have worked: confer, then answer together.

Shape letters: N tokens, K chosen experts, M = N·K, D width, C width of the conference.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from luna_plugin_moe.routing import softmax
from torch import Tensor, nn

from .context import fill

FEW_STATES = 4
"""Up to which dots are taken one by one: a batch of products of two rows each is slow."""


class Conference(nn.Module):
    """The task force: the chosen experts confer, y = Σ_k w_k y_k + B (Σ_k w_k m_k + m_0), with B zero at birth.

    m = Attention over the K states q_k = A y_k ∈ R^C and, if there is one, the mediator's learned state, whose own
    conclusion is m_0. Query and key projections meet only in their product, and so do B and the value projection: one
    matrix each serves, which is exact.
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
        low, exact, width = table.dtype, torch.promote_types(self.down.dtype, weights.dtype), self.down.shape[0]
        query, key, value = self.qkv.to(exact).split(width)
        pairs = (query.t() @ key / math.sqrt(width)).to(low)
        up = (self.up.to(exact) @ value).to(low)
        down = self.down.to(low)
        if table.shape[0] < 2 * n * k:  # nearly all rows are somebody's, and C numbers of each are fewer to gather
            states = F.linear(table, down).index_select(0, index.reshape(-1)).view(n, k, width)
        else:
            states = F.linear(table.index_select(0, index.reshape(-1)), down).view(n, k, width)
        if self.mediator is not None:
            states = torch.cat([states, self.mediator.to(low).expand(n, 1, -1)], 1)
            weights = F.pad(weights, (0, 1), value=1.0)
        asked = states @ pairs
        if states.shape[1] <= FEW_STATES:
            logits = torch.stack([torch.linalg.vecdot(asked, state) for state in states.split(1, 1)], 2)
        else:
            logits = asked @ states.transpose(1, 2)
        attention = softmax(logits.to(weights.dtype).flatten(0, 1)).view(logits.shape)
        # Σ_k w_k m_k = W_o W_v Σ_j (Σ_k w_k a_kj) state_j: the weights go into the attention
        shares = (weights.unsqueeze(2) * attention).sum(1)
        mixed = (shares.to(low).unsqueeze(2) * states).sum(1)
        return F.linear(mixed, up), attention.detach()

    def flops(self, top_k: int) -> float:
        """Forward operations per token."""
        width, d = self.down.shape
        states = top_k + (self.mediator is not None)
        macs = top_k * width * d + states * width * (width + states + 1) + states**2 + width * d
        return 2.0 * macs
