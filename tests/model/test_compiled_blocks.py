"""Compiled blocks of every kind are whole graphs: a break costs the time that compiling is there to gain."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("none", {}),
    "moe": ("moe", {}),
    "moc": ("moc", {}),
    "moc, full": ("moc", {"context": "full"}),
    "ssm": ("ssm", {}),
    "hybrid": ("ssm", {}),
    "hyper_adapter": ("hypernet", {}),
    "domain_adapter": ("hypernet", {}),
}
SMALL = {"num_layers": 3, "d_model": 32, "num_heads": 2, "num_kv_heads": 2, "head_dim": 16, "ffn_dim": 48}


def make(kind: str) -> Decoder:
    plugin, config = KINDS[kind]
    if plugin != "none":
        pytest.importorskip(f"luna_plugin_{plugin}")
    name = kind.partition(",")[0]
    registry = load_plugins(plugin).registry
    place = {} if plugin == "none" else {name: "every block"}
    blueprint = Blueprint.from_preset(
        "tiny", registry, vocab_size=64, place=place, configs={name: config} if config else {}, dims=SMALL
    )
    torch.manual_seed(0)
    return Decoder(blueprint, registry).train()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_without_a_break(kind: str) -> None:
    torch._dynamo.reset()
    model = make(kind)
    tokens = torch.randint(0, 64, (2, 13))
    plain = model.token_losses(tokens[:, :-1], tokens[:, 1:])
    # the graphs alone, for whichever compiler; `fullgraph` makes a break an error
    model.compiled = [torch.compile(block, backend="eager", fullgraph=True) for block in model.blocks]
    torch._dynamo.utils.counters.clear()
    found = model.token_losses(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(found.sum_loss, plain.sum_loss)
    assert found.metrics.keys() == plain.metrics.keys()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs <= 4, "blocks that differ by their number alone must share their graphs"


@pytest.mark.filterwarnings("ignore")
def test_a_break_is_noticed() -> None:
    torch._dynamo.reset()
    model = make("dense")
    plain = model.blocks[1].forward

    def prints(*given: Any) -> Any:
        torch._dynamo.graph_break()
        return plain(*given)

    model.blocks[1].forward = prints  # type: ignore[method-assign]
    model.compiled = [torch.compile(block, backend="eager", fullgraph=True) for block in model.blocks]
    with pytest.raises(torch._dynamo.exc.Unsupported):
        model.token_losses(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64))
