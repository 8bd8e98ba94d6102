"""Small sizes for all tests of the position schemes."""

import pytest
import torch

from luna_kernel.contracts.layers import Dims

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
def make_position():
    """make_position(name, **fields): a scheme with weights away from birth."""
    from luna_kernel.plugins import load_plugins

    registry = load_plugins("positions").registry

    def make(name, *, seed=0, **fields):
        torch.manual_seed(seed)
        component = registry.get("position", name)
        position = component.load()(component.make_config(fields), DIMS)
        with torch.no_grad():
            for weight in position.parameters():
                weight += torch.randn_like(weight)
        return position.eval()

    return make
