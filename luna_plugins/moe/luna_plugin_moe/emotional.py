"""Routing that an emotion moves.

Shape letters: N tokens, D width, E experts, K chosen, C dimensions of the emotion, r rank.

The seed's form, (W + BᵀP) x, is one linear layer and adds nothing to it. Here the emotion comes from outside: the
persona, the person, a label; or from a head with a loss of its own, which reads what the model has read so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.contracts.routers import Router

from .balance import token_mask
from .config import EmotionalConfig
from .emotions import EMOTIONS
from .router import TopKRouter
from .routing import token_mean

EMOTION, LABEL = "emotion", "emotion_label"
"""Names of the conditions: what routing follows, and what the head learns."""


class EmotionalRouter(TopKRouter):
    """ℓ = W_r x + U e + V((A x) ⊙ (C e)), with U and C zero at birth: the linear router to the bit until they learn,
    and for ever where e is zero or absent. C rather than V, so that an emotion which no data had never has an effect.

    e is `ctx.condition["emotion"]`, (B, C) or (B, T, C). With `head`, a token without one gets the head's sigmoid(H x),
    taken as it is: only the loss of the head, on rows that have a label, teaches it.
    """

    config: EmotionalConfig

    def __init__(self, config: EmotionalConfig, dims: Dims, num_experts: int, top_k: int) -> None:
        Router.__init__(self, config, dims, num_experts, top_k)
        d, size = dims.d_model, len(EMOTIONS)
        self.weight = nn.Parameter(torch.empty(num_experts, d))
        self.direct = nn.Parameter(torch.empty(num_experts, size))
        self.text = nn.Parameter(torch.empty(config.rank, d))
        self.mood = nn.Parameter(torch.empty(config.rank, size))
        self.joint = nn.Parameter(torch.empty(num_experts, config.rank))
        if config.head:
            self.head = nn.Parameter(torch.empty(size, d))
            self.head_bias = nn.Parameter(torch.empty(size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """W and the head normal, A and V such that they keep the variance, U and C zero."""
        super().reset_parameters()
        nn.init.normal_(self.text, std=self.dims.d_model**-0.5)
        nn.init.normal_(self.joint, std=self.config.rank**-0.5)
        nn.init.zeros_(self.direct)
        nn.init.zeros_(self.mood)
        if self.config.head:
            nn.init.normal_(self.head, std=self.dims.init_std)
            nn.init.zeros_(self.head_bias)

    def conditions(self) -> Mapping[str, int]:
        """The emotion, and its label where there is a head to teach."""
        names = (EMOTION, LABEL) if self.config.head else (EMOTION,)
        return dict.fromkeys(names, len(EMOTIONS))

    def condition_names(self) -> Mapping[str, Sequence[str]]:
        """Both have the dimensions of `EMOTIONS`."""
        return dict.fromkeys(self.conditions(), EMOTIONS)

    def logits(self, x: Tensor, ctx: Context) -> Tensor:
        """ℓ (N, E) of x (N, D)."""
        logits = super().logits(x, ctx)
        emotion = self.emotion(x, ctx)
        if emotion is None:
            return logits
        logits = logits + F.linear(emotion, self.direct.to(x.dtype))
        product = F.linear(x, self.text.to(x.dtype)) * F.linear(emotion, self.mood.to(x.dtype))
        return logits + F.linear(product, self.joint.to(x.dtype))

    def emotion(self, x: Tensor, ctx: Context) -> Tensor | None:
        """e (N, C) of the tokens x (N, D), or None; trains the head on what has a label."""
        given = ctx.condition_rows(EMOTION)
        given = None if given is None else given.to(x.dtype)
        if not self.config.head:
            return given
        raw = F.linear(x, self.head.to(x.dtype), self.head_bias.to(x.dtype))
        self._teach(raw, ctx)
        foretold = torch.sigmoid(raw.detach())
        return foretold if given is None else torch.where(given.any(-1, keepdim=True), given, foretold)

    def _teach(self, raw: Tensor, ctx: Context) -> None:
        label = ctx.condition_rows(LABEL)
        if label is None:
            return
        target = label.to(raw.dtype).clamp(0, 1)
        labelled, mask = target.any(-1), token_mask(ctx)
        counted = labelled if mask is None else labelled & mask
        losses = F.binary_cross_entropy_with_logits(raw, target, reduction="none").mean(-1)
        loss = token_mean(losses, counted)
        error = (torch.sigmoid(raw.detach()) - target).abs().mean(-1)
        ctx.add_metric("emotional/head_error", token_mean(error, counted))
        if self.training and self.config.head_weight:
            ctx.add_loss("emotional/head", self.config.head_weight * loss)

    def flops_per_token(self) -> float:
        """Forward operations per token, with an emotion."""
        return super().flops_per_token() + 2.0 * self.config.rank
