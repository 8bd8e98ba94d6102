"""A model that is built for its shapes draws nothing; neither that nor answering imports the compiler, whatever parts
are installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from luna_kernel.model.meta import shapes_only
from luna_kernel.plugins import load_plugins

REGISTRY = load_plugins("all").registry
KINDS = ("mixer", "ffn", "modulator", "position")
NODES = [(part.kind, {"name": part.name}) for kind in KINDS for part in REGISTRY.of_kind(kind)]
if REGISTRY.find("ffn", "moe"):
    NODES += [("ffn", {"name": "moe", "router": {"name": part.name}}) for part in REGISTRY.of_kind("router")]
if REGISTRY.find("ffn", "moc"):
    NODES += [("ffn", {"name": "moc", "context": context}) for context in ("full", "autonomy", "none")]
BUILD = """
import sys
import torch
from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.model.meta import shapes_only
from luna_kernel.model.parts import make_parts
from luna_kernel.plugins import load_plugins

registry = load_plugins("all").registry
heads = {{"num_heads": 2, "num_kv_heads": 2, "head_dim": 16}}
dims = Dims(d_model=32, vocab_size=64, num_layers=2, ffn_dim=48, max_positions=64, **heads)
tokens = torch.arange(5).expand(1, 5)

def make(kind, node):
    return make_parts(kind, f"{{kind}}.0", node, dims, registry)[0].module.eval()

for kind, node in {nodes!r}:
    with shapes_only():
        assert all(weight.is_meta for weight in make(kind, node).parameters())
    x, ctx = torch.randn(1, 5, 32), Context(tokens, tokens=tokens, position=make("position", {{"name": "rope"}}))
    with torch.inference_mode():
        part = make(kind, node)
        if kind != "position":
            part(x, x, ctx) if kind == "modulator" else part(x, ctx)
    assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules, f"{{node}} needs the compiler"
"""


def test_no_compiler_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(nodes=NODES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fill", [nn.init.normal_, nn.init.trunc_normal_, nn.init.kaiming_uniform_, Tensor.uniform_])
def test_nothing_is_drawn(fill: Callable[[Tensor], Tensor]) -> None:
    before = torch.get_rng_state()
    with shapes_only():
        weight = torch.empty(3, 4)
        assert fill(weight) is weight
        assert nn.Linear(4, 3).weight.is_meta
        real = torch.empty(3, 4, device="cpu").fill_(9)
    assert torch.equal(torch.get_rng_state(), before)
    with shapes_only():
        fill(real)
    assert not (real == 9).all(), "what is not on meta is filled as always"
