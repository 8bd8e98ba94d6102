"""Optimisers and schedules, against slow references."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from luna_kernel.contracts.training import NamedParameter
from luna_kernel.train.optimizer_config import AdamWConfig, MuonConfig
from luna_kernel.train.optimizers import make_adamw, make_muon, named_parameters, orthogonalize
from luna_kernel.train.schedules import CosineConfig, WarmupCosine, WarmupStableDecay, WSDConfig


def reference_newton_schulz(matrix, steps):
    """In NumPy, float64, on the shorter side, one matrix at a time."""
    if matrix.ndim > 2:
        return np.stack([reference_newton_schulz(part, steps) for part in matrix])
    if matrix.shape[0] > matrix.shape[1]:
        return reference_newton_schulz(matrix.T, steps).T
    x = matrix / np.linalg.norm(matrix)
    for _ in range(steps):
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        x = u @ np.diag(3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5) @ vt
    return x


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (3, 5, 7)])
def test_orthogonalize_is_the_quintic_on_singular_values(shape):
    matrix = np.random.default_rng(0).normal(size=shape)
    for steps in (1, 5):
        found = orthogonalize(torch.from_numpy(matrix), steps).numpy()
        np.testing.assert_allclose(found, reference_newton_schulz(matrix, steps), atol=1e-6)
    singular = np.linalg.svd(found, compute_uv=False)
    assert singular.min() > 0.5
    assert singular.max() < 1.3


def parameter(name, *shape, **fields):
    generator = torch.Generator().manual_seed(len(name))
    return NamedParameter(name, nn.Parameter(torch.randn(*shape, generator=generator)), **fields)


def test_muon_is_its_slow_reference():
    config = MuonConfig(weight_decay=0.1, momentum=0.9, rms=0.2)
    item = parameter("w", 5, 8, matrix=True)
    w = item.parameter.detach().double().numpy().copy()
    (optimizer,) = make_muon([item], config, learning_rate=0.02)
    moment = np.zeros_like(w)
    rng = np.random.default_rng(1)
    for _ in range(4):
        g = rng.normal(size=w.shape)
        item.parameter.grad = torch.from_numpy(g).float()
        optimizer.step()
        moment = 0.9 * moment + g
        update = reference_newton_schulz(g + 0.9 * moment, 5)
        w = (1 - 0.02 * 0.1) * w - 0.02 * 0.2 * math.sqrt(8) * update
    np.testing.assert_allclose(item.parameter.detach().numpy(), w, atol=1e-5)
    rms = float(torch.tensor(0.2 * math.sqrt(8) * update).square().mean().sqrt())
    assert 0.1 < rms < 0.3


def test_adamw_is_its_slow_reference():
    item = parameter("w", 3, 4)
    w = item.parameter.detach().double().numpy().copy()
    (optimizer,) = make_adamw([item], AdamWConfig(weight_decay=0.1), learning_rate=0.01)
    m, v = np.zeros_like(w), np.zeros_like(w)
    rng = np.random.default_rng(1)
    for step in range(1, 5):
        g = rng.normal(size=w.shape)
        item.parameter.grad = torch.from_numpy(g).float()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        w = w * (1 - 0.01 * 0.1)
        w -= 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
    np.testing.assert_allclose(item.parameter.detach().numpy(), w, atol=1e-5)


def test_every_parameter_is_in_one_group_of_one_optimizer(make_model):
    items = named_parameters(make_model())
    optimizers = make_muon(items, MuonConfig(), learning_rate=1e-3)
    grouped = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(item.parameter) for item in items)
    muon = {id(p) for g in optimizers[0].param_groups for p in g["params"]}
    names = {item.name for item in items if id(item.parameter) in muon}
    assert "embedding.weight" not in names
    assert all(name.startswith("blocks.") for name in names)
    decaying = {id(p) for o in optimizers for g in o.param_groups if g["weight_decay"] > 0 for p in g["params"]}
    assert {item.parameter.dim() for item in items if id(item.parameter) not in decaying} == {1}


def test_hints_of_modules(make_model):
    model = make_model()
    model.blocks[0].ffn.optimizer_hints = lambda: {"down.weight": {"lr_scale": 0.5, "matrix": False}}
    by_name = {item.name: item for item in named_parameters(model)}
    assert by_name["blocks.0.ffn.down.weight"].lr_scale == 0.5
    assert not by_name["blocks.0.ffn.down.weight"].matrix
    assert by_name["blocks.1.ffn.down.weight"].matrix
    model.blocks[0].ffn.optimizer_hints = lambda: {"nothing": {}}
    with pytest.raises(ValueError, match="nothing"):
        named_parameters(model)


def test_wsd():
    schedule = WarmupStableDecay(WSDConfig(warmup_steps=4, decay_share=0.5, final=0.1))
    assert [schedule.multiplier(step, 0.0) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [schedule.multiplier(99, p) for p in (0.3, 0.5, 0.75, 1.0)] == pytest.approx([1.0, 1.0, 0.55, 0.1])
    assert WarmupStableDecay(WSDConfig(warmup_steps=0, decay_share=0)).multiplier(0, 1.0) == 1.0


def test_cosine():
    schedule = WarmupCosine(CosineConfig(warmup_steps=1, final=0.2))
    assert schedule.multiplier(0, 0.0) == pytest.approx(0.5)
    assert [schedule.multiplier(9, p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.6, 0.2])
