"""The preliminary meeting as a router in the plain mixture."""

import pytest
import torch
from luna_plugin_moc.config import ContextualConfig

from luna_kernel.contracts.layers import Context
from luna_kernel.model.parts import make_parts
from luna_kernel.plugins import load_plugins
from luna_kernel.testing import LayerConformance

NODE = {"name": "contextual", "probe_rank": 8, "heads": 2}


class TestContextual(LayerConformance):
    component = ("ffn", "moe")
    config = {"num_experts": 4, "router": NODE}


@pytest.mark.parametrize("name", ["moe", "moc"])
def test_at_birth_it_is_the_linear_router(name, dims):
    registry = load_plugins("moc").registry

    def make(router):
        torch.manual_seed(0)
        return make_parts("ffn", "x", {"name": name, "num_experts": 4, "router": router}, dims, registry)[0].module

    plain, meeting = make({"name": "topk"}), make(NODE)
    plain.load_state_dict({key: value for key, value in meeting.state_dict().items() if key in plain.state_dict()})
    x = torch.randn(2, 9, 32)
    ctx = Context(torch.arange(9).expand(2, 9))
    assert torch.equal(meeting(x, ctx), plain(x, ctx))
    meeting(x, ctx).square().sum().backward()
    assert meeting.router.context.score.grad.abs().max() > 0, "the output alone teaches it"


def test_permuting_experts_permutes_logits(dims):
    registry = load_plugins("moc").registry
    node = {"name": "moe", "num_experts": 4, "router": NODE}
    first, second = (make_parts("ffn", "x", node, dims, registry)[0].module.router.double() for _ in range(2))
    with torch.no_grad():
        for weight in first.parameters():
            weight += 0.3 * torch.randn_like(weight)
    order = torch.tensor([2, 0, 3, 1])
    state = first.state_dict()
    second.load_state_dict(
        {k: v[order] if k in ("weight", "context.probe", "context.probe_bias") else v for k, v in state.items()}
    )
    x = torch.randn(7, 32, dtype=torch.float64)
    ctx = Context(torch.arange(7)[None])
    torch.testing.assert_close(second(x, ctx).logits, first(x, ctx).logits[:, order])


def test_heads_must_divide_the_rank():
    with pytest.raises(ValueError, match="probe_rank = 32"):
        ContextualConfig(probe_rank=32, heads=3)
