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


def reference(layer: torch.nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's output (N, D) and its router's logits (N, E) for tokens x (N, D), in float64."""
    w = {name: p.detach().double() for name, p in [*layer.named_parameters(), *layer.named_buffers()]}
    config = layer.config
    outputs, all_logits = [], []
    for token in x.double():
        said = torch.stack([swiglu(token, a, b) for a, b in zip(w["w13"], w["w2"], strict=True)])
        logits = w["router.weight"] @ token
        if config.context == "low_rank":
            z = w["context.down"] @ token
            raw = torch.stack([p @ z + u for p, u in zip(w["context.probe"], w["context.probe_bias"], strict=True)])
            p = raw * torch.sigmoid(raw)
            q, k, v = (p @ w[f"context.{name}"].T for name in ("query", "key", "value"))
            logits = logits + (p + attend(q, k, v, config.context_heads or 1)) @ w["context.score"]
        if config.context == "full":
            q, k, v = (said @ w["context.qkv"].T).chunk(3, dim=1)
            c = said + attend(q, k, v, layer.context.heads) @ w["context.out"].T
            c = c / torch.sqrt(c.square().mean(1, keepdim=True) + layer.context.eps)
            logits = logits + c @ w["context.score"]
        s = torch.softmax(logits, dim=0)
        chosen = torch.topk(s + w.get("expert_bias", torch.zeros(())), config.top_k).indices
        weights = s[chosen] / s[chosen].sum() if config.top_k > 1 else s[chosen]
        y = sum(weight * said[e] for weight, e in zip(weights, chosen, strict=True))
        if config.fusion == "attend":
            states = said[chosen] @ w["fusion.down"].T
            q, k, v = (states @ w["fusion.qkv"].T).chunk(3, dim=1)
            y = y + w["fusion.up"] @ (weights @ attend(q, k, v, 1))
        if config.shared_dim:
            y = y + swiglu(token, w["shared_w13"], w["shared_w2"])
        outputs.append(y)
        all_logits.append(logits)
    return torch.stack(outputs), torch.stack(all_logits)
