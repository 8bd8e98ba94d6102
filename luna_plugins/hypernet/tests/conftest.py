"""Small sizes for all tests of the adapters."""

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
