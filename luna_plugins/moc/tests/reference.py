"""The slow reference: one loop over tokens and experts, in float64, straight from the definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def swiglu(x: Tensor, w13: Tensor, w2: Tensor) -> Tensor:
    """One expert on one token: x (D,), w13 (2F, D), w2 (D, F) -> (D,)."""
    hidden = w2.shape[1]
    gate = w13[:hidden] @ x
    return w2 @ (gate * torch.sigmoid(gate) * (w13[hidden:] @ x))


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head attention among the rows of (S, R) matrices, heads one after the other."""
    size = query.shape[1] // heads
    out = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = query[:, part] @ key[:, part].T / math.sqrt(size)
        out.append(torch.softmax(scores, dim=-1) @ value[:, part])
    return torch.cat(out, dim=1)


class Reference:
    """A layer's weights, and what it should compute for one token."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self.w = {name: p.detach().double() for name, p in [*layer.named_parameters(), *layer.named_buffers()]}
        self.config, self.layer = layer.config, layer

    def experts(self, token: Tensor) -> Tensor:
        """(E, D): what each expert would say."""
        w = self.w
        if self.config.context != "autonomy":
            return torch.stack([swiglu(token, a, b) for a, b in zip(w["w13"], w["w2"], strict=True)])
        gates = [u @ v for u, v in zip(w["context.up"], w["context.down"], strict=True)]
        parts = zip(gates, w["w3"], w["w2"], strict=True)
        return torch.stack([swiglu(token, torch.cat([w1, w3]), w2) for w1, w3, w2 in parts])

    def logits(self, token: Tensor, said: Tensor, number: int) -> Tensor:
        """(E,) of round `number`."""
        w, config = self.w, self.config
        if config.context == "autonomy":
            return torch.stack([(v @ token).norm() for v in w["context.down"]])
        logits = w[f"later_routers.{number - 1}.weight" if number else "router.weight"] @ token
        if config.context == "low_rank":
            z = w["context.down"] @ token
            raw = torch.stack([p @ z + u for p, u in zip(w["context.probe"], w["context.probe_bias"], strict=True)])
            p = raw * torch.sigmoid(raw)
            q, k, v = (p @ w[f"context.{name}"].T for name in ("query", "key", "value"))
            logits = logits + (p + attend(q, k, v, config.context_heads)) @ w["context.score"]
        if config.context == "full":
            q, k, v = (said @ w["context.qkv"].T).chunk(3, dim=1)
            c = said + attend(q, k, v, config.context_heads) @ w["context.out"].T
            c = c / torch.sqrt(c.square().mean(1, keepdim=True) + self.layer.context.eps)
            logits = logits + c @ w["context.score"]
        return logits

    def fuse(self, said: Tensor, weights: Tensor) -> Tensor:
        """(D,): what the conference of the chosen experts adds to the sum; said (K, D)."""
        w = self.w
        states = said @ w["fusion.down"].T
        if self.config.mediator:
            states = torch.cat([states, w["fusion.mediator"][None]])
        q, k, v = (states @ w["fusion.qkv"].T).chunk(3, dim=1)
        m = attend(q, k, v, 1)
        total = sum(weight * mine for weight, mine in zip(weights, m, strict=False))
        return w["fusion.up"] @ (total + m[-1] if self.config.mediator else total)

    def round(self, token: Tensor, number: int, top_k: int) -> tuple[Tensor, Tensor]:
        """Output (D,) and logits (E,)."""
        said = self.experts(token)
        logits = self.logits(token, said, number)
        s = torch.softmax(logits, dim=0)
        chosen = torch.topk(s + self.w.get("expert_bias", torch.zeros(())), top_k).indices
        weights = s[chosen] / s[chosen].sum() if top_k > 1 else s[chosen]
        y = sum(weight * said[e] for weight, e in zip(weights, chosen, strict=True))
        return y + self.fuse(said[chosen], weights) if self.config.fusion == "attend" else y, logits

    def token(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Output (D,) and the logits (E,) of the first round."""
        rounds = self.config.rounds if self.config.fusion == "chain" else 1
        state, all_logits = token, []
        for number in range(rounds):
            y, logits = self.round(state, number, self.config.top_k // rounds)
            state = state + y
            all_logits.append(logits)
        y = state - token
        if self.config.shared_dim:
            y = y + swiglu(token, self.w["shared_w13"], self.w["shared_w2"])
        return y, all_logits[0]


def reference(layer: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's output (N, D) and its router's logits (N, E) for tokens x (N, D), in float64."""
    slow = Reference(layer)
    found = [slow.token(token) for token in x.double()]
    return torch.stack([y for y, _ in found]), torch.stack([logits for _, logits in found])
