"""Small sizes for all tests of the experts."""

import pytest
import torch

from luna_kernel.contracts.layers import Context, Dims

DIMS = Dims(
    vocab_size=64, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=48, max_positions=128
)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dims():
    return DIMS


@pytest.fixture(scope="session")
def make_layer():
    """make_layer(stir=True, dims=DIMS, **fields): a layer, its weights moved away from birth if `stir`."""
    from luna_kernel.model.parts import make_parts
    from luna_kernel.plugins import load_plugins

    registry = load_plugins("moe").registry

    def make(*, stir=True, seed=0, dims=DIMS, **fields):
        torch.manual_seed(seed)
        node = {"name": "moe", "num_experts": 5, **fields}
        layer = make_parts("ffn", "blocks.0.ffn", node, dims, registry)[0].module
        if stir:
            with torch.no_grad():
                for weight in layer.parameters():
                    weight += 0.2 * torch.randn_like(weight)
                if layer.expert_bias is not None:
                    layer.expert_bias.normal_(std=0.1)
        return layer

    return make


@pytest.fixture(scope="session")
def context():
    """context(B, T, segment_ids=None, **fields): what a layer is told."""

    def make(batch, length, segment_ids=None, **fields):
        return Context(torch.arange(length).expand(batch, length), segment_ids, **fields)

    return make
