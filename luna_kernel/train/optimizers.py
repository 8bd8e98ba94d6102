"""Optimisers: AdamW, and Muon for matrices with AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from luna_kernel.contracts.training import Hint, NamedParameter
from luna_kernel.plugins.registry import Registry
from luna_kernel.train.config import TrainConfig
from luna_kernel.train.optimizer_config import AdamWConfig, MuonConfig

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Jordan's quintic: it drives singular values to about 1 (0.7 to 1.2) in five steps, and blows none up."""


def named_parameters(model: nn.Module) -> list[NamedParameter]:
    """The trainable parameters of a model, with what its modules say of them (`optimizer_hints`).

    Raises:
        ValueError: a module gives a hint for a parameter that it does not have.
    """
    hints: dict[str, Hint] = {}
    for prefix, module in model.named_modules():
        given = getattr(module, "optimizer_hints", None)
        if given is None:
            continue
        own = dict(module.named_parameters())
        for name, hint in given().items():
            if name not in own:
                raise ValueError(f"optimizer_hints of {prefix or 'the model'}: there is no parameter {name!r}")
            hints[f"{prefix}.{name}" if prefix else name] = hint
    outer = {
        id(p) for m in (getattr(model, "embedding", None), getattr(model, "head", None)) if m for p in m.parameters()
    }
    found = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hint = hints.get(name, {})
            wide = parameter.dim() >= 2
            matrix = hint.get("matrix", wide and id(parameter) not in outer)
            found.append(
                NamedParameter(name, parameter, hint.get("lr_scale", 1.0), hint.get("weight_decay", wide), matrix)
            )
    return found


def make_optimizers(model: nn.Module, config: TrainConfig, registry: Registry) -> Sequence[Optimizer]:
    """The optimisers that a run's configuration asks for, of all trainable parameters of `model`.

    Raises:
        UsageError: no such optimiser.
        ConfigError: its fields do not validate.
    """
    component = registry.get("optimizer", config.optimizer["name"], where="optimizer")
    fields = component.make_config(config.optimizer, where="optimizer")
    made: Sequence[Optimizer] = component.load()(named_parameters(model), fields, learning_rate=config.learning_rate)
    return made


def _groups(items: Iterable[NamedParameter], learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of one learning rate and one decay each, in the order of the first of each."""
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for item in items:
        decays = item.weight_decay and weight_decay > 0
        made = {"params": [], "lr": learning_rate * item.lr_scale, "weight_decay": weight_decay if decays else 0.0}
        groups.setdefault((item.lr_scale, decays), made)["params"].append(item.parameter)
    return list(groups.values())


def make_adamw(parameters: Sequence[NamedParameter], config: AdamWConfig, *, learning_rate: float) -> list[Optimizer]:
    """AdamW, fused: one pass over memory per step."""
    groups = _groups(parameters, learning_rate, config.weight_decay)
    fused = all(item.parameter.device.type in ("cpu", "cuda", "mps") for item in parameters)
    return [AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=fused)]


def make_muon(parameters: Sequence[NamedParameter], config: MuonConfig, *, learning_rate: float) -> list[Optimizer]:
    """Muon for those with `matrix`, AdamW for the others."""
    matrices = [item for item in parameters if item.matrix]
    others = [item for item in parameters if not item.matrix]
    made: list[Optimizer] = []
    if matrices:
        groups = _groups(matrices, learning_rate, config.weight_decay)
        made.append(Muon(groups, momentum=config.momentum, iterations=config.iterations, rms=config.rms))
    return made + (make_adamw(others, config, learning_rate=learning_rate) if others else [])


class Muon(Optimizer):
    """Momentum whose every update is made orthogonal (Jordan et al. 2024, "Muon: an optimizer for hidden layers").

    For W (…, m, n): M = momentum · M + G; U = orthogonalize(G + momentum · M), Nesterov's way;
    W = (1 - lr · decay) W - lr · rms · sqrt(max(m, n)) · U. An orthogonal (m, n) has a root mean square of
    1 / sqrt(max(m, n)), so `rms` is the update's size at learning rate 1. Leading axes are separate matrices (experts).
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float, iterations: int, rms: float) -> None:
        defaults = {"lr": 1e-3, "weight_decay": 0.0, "momentum": momentum, "iterations": iterations, "rms": rms}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.float()
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(gradient)
                moment: Tensor = state["momentum"]
                moment.mul_(group["momentum"]).add_(gradient)
                update = orthogonalize(gradient.add(moment, alpha=group["momentum"]), group["iterations"])
                size = group["rms"] * math.sqrt(max(parameter.shape[-2:]))
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * size)
        return loss


def orthogonalize(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly, of matrix (…, m, n): singular vectors kept, singular values near 1.

    Newton–Schulz: X = aX + (bA + cA²)X with A = XXᵀ, from X = M / ‖M‖. On the shorter side, so that A is small.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    x: Tensor = matrix.mT if tall else matrix
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(iterations):
        a = x @ x.mT
        x = _A * x + (_B * a + _C * (a @ a)) @ x
    return x.mT if tall else x
