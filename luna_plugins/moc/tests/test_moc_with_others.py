"""Collaborative experts in one block with a state space, and with a hypernetwork's modulator where there is one."""

import pytest
import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}
SMALL = {"num_experts": 4, "probe_rank": 8, "fusion_dim": 8, "autonomy_rank": 8}
MODES = [("low_rank", "attend"), ("full", "sum"), ("autonomy", "chain"), ("none", "chain")]


def make_model(context, fusion, *, hyper=False):
    """Every block: ssm, moc, and the modulator."""
    pytest.importorskip("luna_plugin_ssm")
    registry = load_plugins().registry
    configs = {"moc": {**SMALL, "context": context, "fusion": fusion}, "ssm": {"state_dim": 8, "chunk_size": 8}}
    place = {"moc": "every block", "ssm": "every block"}
    if hyper:
        configs["hyper_adapter"] = {"source": "text"}
        place["hyper_adapter"] = "ffn of every block"
    blueprint = Blueprint.from_preset(
        "mini", registry, vocab_size=64, components=list(place), dims=SIZES, configs=configs, place=place
    )
    torch.manual_seed(0)
    model = Decoder(blueprint, registry).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model


def check(model):
    """Cached is uncached, and every weight learns."""
    tokens = torch.randint(0, 64, (2, 14), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(tokens).logits
        state = model.make_state(2, 14)
        cuts = [(0, 6), (6, 9), *((i, i + 1) for i in range(9, 14))]
        parts = [model(tokens[:, a:b], state=state).logits for a, b in cuts]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
    out = model.train().token_losses(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 13))
    (out.sum_loss / 26 + sum(out.losses.values())).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name


@pytest.mark.parametrize(("context", "fusion"), MODES)
def test_with_a_state_space(context, fusion):
    model = make_model(context, fusion)
    assert [(block.mixer["name"], block.ffn["name"]) for block in model.blueprint.blocks] == [("ssm", "moc")] * 2
    check(model)


@pytest.mark.parametrize(("context", "fusion"), MODES)
def test_with_a_hypernetwork(context, fusion):
    pytest.importorskip("luna_plugin_hypernet")
    check(make_model(context, fusion, hyper=True))
