"""Activation checkpointing: the same losses, metrics and gradients to the bit, and less kept for the backward pass."""

import pytest
import torch
from torch.nn import functional as F

from luna_kernel.contracts.layers import Layer
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.feed_forward import SwiGLU
from luna_kernel.model.feed_forward_config import SwiGLUConfig
from luna_kernel.plugins import load_plugins

SIZES = {"d_model": 32, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}


class Noisy(Layer):
    """Draws random numbers, adds a loss and a metric, and counts its passes."""

    def __init__(self, dims):
        super().__init__()
        self.inner = SwiGLU(SwiGLUConfig(), dims)
        self.calls = self.counted = 0

    def forward(self, x, ctx):
        self.calls += 1
        self.counted += not ctx.recomputing
        y = F.dropout(self.inner(x, ctx), 0.3, self.training)
        ctx.add_loss("noisy/size", y.square().mean())
        ctx.add_metric("noisy/mean", y.mean())
        return y


@pytest.fixture
def make_model(kernel):
    def make(every, *, window=None):
        blueprint = Blueprint.from_preset("mini", kernel.registry, vocab_size=61, dims={**SIZES, "max_positions": 64})
        blueprint = blueprint.with_node("blocks.1.mixer", {"name": "attention", "window": window})
        torch.manual_seed(0)
        model = Decoder(blueprint, kernel.registry)
        for block in model.blocks:
            block.ffn = Noisy(model.dims)
        model.recompute_every = every
        return model.train()

    return make


def step(model, segments=None):
    tokens = torch.randint(0, 61, (2, 33), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    out = model(tokens[:, :-1], segments, targets=tokens[:, 1:])
    (out.sum_loss + sum(out.losses.values())).backward()
    return out, {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_to_the_bit(make_model, every, packed):
    segments = torch.tensor([[1] * 20 + [2] * 12, [1] * 30 + [0] * 2]) if packed else None
    plain, expected = step(make_model(0, window=7), segments)
    model = make_model(every, window=7)
    out, gradients = step(model, segments)
    assert torch.equal(out.sum_loss, plain.sum_loss)
    assert out.losses.keys() == plain.losses.keys() == {"noisy/size"}
    assert torch.equal(out.losses["noisy/size"], plain.losses["noisy/size"])
    assert out.metrics.keys() == plain.metrics.keys()
    assert all(torch.equal(out.metrics[name], plain.metrics[name]) for name in plain.metrics)
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)
    again = [block.ffn.calls for block in model.blocks]
    assert again == [2 if (i + 1) % every == 0 else 1 for i in range(4)]
    assert [block.ffn.counted for block in model.blocks] == [1] * 4


def kept_bytes(model):
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    tokens = torch.randint(0, 61, (4, 64))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(tokens, targets=tokens)
    assert out.sum_loss.requires_grad
    return sum(size for place, size in sizes.items() if place not in weights)


def test_less_is_kept(make_model):
    kept = [kept_bytes(make_model(every)) for every in (0, 2, 1)]
    assert kept[2] < kept[1] < kept[0]
    assert kept[2] < 0.3 * kept[0]


def test_only_in_training(make_model):
    model = make_model(1)
    tokens = torch.randint(0, 61, (2, 10))
    with torch.no_grad():
        model(tokens)
    model.eval()(tokens)
    assert all(block.ffn.calls == 2 for block in model.blocks)


def test_a_shared_bias_learns_the_same(make_model):
    pytest.importorskip("luna_plugin_positions")
    registry = load_plugins("positions").registry

    def run(every):
        blueprint = Blueprint.from_preset("mini", registry, vocab_size=61, place={"t5": "every block"}, dims=SIZES)
        torch.manual_seed(0)
        model = Decoder(blueprint, registry).train()
        model.recompute_every = every
        return step(model)[1]

    plain, found = run(0), run(1)
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)
    assert plain["position.table"].abs().max() > 0
