import pytest
import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import Plugins, load_plugins

SMALL = {
    "d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48,
    "max_positions": 64,
}  # fmt: skip


@pytest.fixture(scope="session")
def kernel() -> Plugins:
    """No plugin but the kernel's own."""
    return load_plugins("none")


@pytest.fixture
def blueprint(kernel: Plugins) -> Blueprint:
    return Blueprint.from_preset("mini", kernel.registry, vocab_size=61, dims=SMALL)


@pytest.fixture
def model(blueprint: Blueprint, kernel: Plugins) -> Decoder:
    torch.manual_seed(0)
    return Decoder(blueprint, kernel.registry).eval()
