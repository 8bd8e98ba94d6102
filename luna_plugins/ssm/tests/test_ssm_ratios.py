"""The state space among attention layers, in wide ratios."""

import pytest
import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

SIZES = {"d_model": 32, "num_layers": 8, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}


@pytest.fixture(params=["1:7", "7:1"])
def model(request):
    torch.manual_seed(0)
    registry = load_plugins("ssm").registry
    blueprint = Blueprint.from_preset(
        "mini", registry, vocab_size=64, place={"ssm": request.param}, configs={"ssm": {"state_dim": 8}}, dims=SIZES
    )
    layers = [block.mixer["name"] for block in blueprint.blocks]
    assert layers == (["ssm"] + ["attention"] * 7 if request.param == "1:7" else ["ssm"] * 7 + ["attention"])
    model = Decoder(blueprint, registry).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model


def test_cached_is_uncached(model):
    tokens = torch.randint(0, 64, (2, 20))
    with torch.no_grad():
        whole = model(tokens).logits
        state = model.make_state(2, 20)
        cuts = [(0, 9), (9, 13), *((i, i + 1) for i in range(13, 20))]
        parts = [model(tokens[:, a:b], state=state).logits for a, b in cuts]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)


def test_no_token_sees_a_later_one_and_every_weight_learns(model):
    tokens = torch.randint(0, 64, (1, 12))
    other = tokens.clone()
    other[0, 8:] = (other[0, 8:] + 1) % 64
    with torch.no_grad():
        assert torch.equal(model(tokens).logits[:, :8], model(other).logits[:, :8])
    model.token_losses(tokens[:, :-1], tokens[:, 1:]).sum_loss.backward()
    still = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not still
