"""The adapter by domain: which one is said, or is inferred from the text so far.

Shape letters: B batch, T tokens, S 1 or T, D width of the model, C domains, E width of a domain's vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luna_kernel.contracts.layers import PADDING_SEGMENT, Context, Dims, Modulator
from luna_kernel.model.linear import Linear

from .config import DomainConfig
from .generator import FORMS, HyperNetwork
from .layer import condition_of
from .summary import MeanState, running_mean


class DomainSpecificHyperAdapter(Modulator):
    """y changed by an update generated from c = Σ_d π_d emb_d, π a point of the simplex of C domains.

    π is the given condition, its positive weights made to sum to 1; where it is zero, softmax of the mean over the
    sample's tokens so far of W x. Where it is given, a cross-entropy teaches W to infer it.
    """

    def __init__(self, config: DomainConfig, dims: Dims) -> None:
        super().__init__()
        self.config, self.dims = config, dims
        self.infer = Linear(dims.d_model, config.domains, std=dims.d_model**-0.5)
        self.embedding = nn.Parameter(torch.empty(config.domains, config.embedding))
        self.network = HyperNetwork(config.embedding, config.hidden, config.embedding**-0.5)
        self.form = FORMS[config.form](config, dims)
        nn.init.normal_(self.embedding)

    def reset_parameters(self) -> None:
        """Fill every parameter afresh."""
        super().reset_parameters()
        nn.init.normal_(self.embedding)

    def output_parameters(self) -> tuple[str, ...]:
        """What is zero at birth."""
        return tuple(f"form.{name}" for name in self.form.outputs)

    def conditions(self) -> dict[str, int]:
        """The domain, where it is known."""
        return {self.config.condition: self.config.domains}

    def make_state(self, batch: int, max_length: int, dtype: torch.dtype, device: torch.device) -> MeanState:
        """The sum over the text so far."""
        return MeanState.empty(batch, self.config.domains, device)

    def forward(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """x, y (B, T, D) to (B, T, D)."""
        logits = running_mean(self.infer(x), ctx.segment_ids, ctx.state)
        inferred = logits.softmax(-1)
        given = condition_of(ctx, self.config.condition, self.config.domains, x).float().clamp(min=0)
        weight = given.sum(-1, keepdim=True)
        given = given / weight.clamp(min=1e-6)
        known = weight > 0
        if self.training or x.shape[1] > 1:  # one token at a time is decoding: nobody reads reports there
            self._report(ctx, logits, inferred, given, known)
        pi = torch.where(known, given, inferred)
        c = (pi @ self.embedding.float()).to(x.dtype)
        return self.form(x, y, self.network(c))

    def _report(self, ctx: Context, logits: Tensor, inferred: Tensor, given: Tensor, known: Tensor) -> None:
        """Metrics of the mixture, and in training the losses; means over the tokens that are no padding."""
        real = torch.ones_like(logits[..., 0]) if ctx.segment_ids is None else ctx.segment_ids != PADDING_SEGMENT
        real = real.float()
        labelled = real * known[..., 0]
        logs = logits.log_softmax(-1)
        entropy = -(inferred * logs).sum(-1)
        wrong = -(given * logs).sum(-1)
        right = (inferred.argmax(-1) == given.argmax(-1)).float()
        ctx.add_metric("domain/pi", (inferred * real[..., None]).sum((0, 1)) / real.sum().clamp(min=1))
        ctx.add_metric("domain/entropy", _mean(entropy, real))
        ctx.add_metric("domain/accuracy", _mean(right, labelled))
        if self.training and self.config.label_weight:
            ctx.add_loss("domain/label", self.config.label_weight * _mean(wrong, labelled))
        if self.training and self.config.entropy_weight:
            ctx.add_loss("domain/entropy", self.config.entropy_weight * _mean(entropy, real))

    def flops_per_token(self, context_length: int) -> float:
        """Operations per token that it adds."""
        matrices = (self.infer.weight, self.embedding, self.network.weight)
        return 2.0 * sum(matrix.numel() for matrix in matrices) + self.form.flops()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)
