"""The state space and the collaborative experts in one model."""

import pytest
import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

pytest.importorskip("luna_plugin_moc")

CONFIGS = {"moc": {"num_experts": 4, "probe_rank": 8, "fusion_dim": 8}, "ssm": {"state_dim": 8, "chunk_size": 8}}


@pytest.fixture(scope="module")
def plugins():
    return load_plugins()


@pytest.fixture
def model(plugins, dims):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}
    blueprint = Blueprint.from_preset(
        "tiny", plugins.registry, vocab_size=64, components=["moc", "ssm"], configs=CONFIGS, dims=sizes
    )
    model = Decoder(blueprint, plugins.registry).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model


def test_places(model):
    assert [block.mixer["name"] for block in model.blueprint.blocks] == ["ssm", "ssm", "ssm", "attention"]
    assert [block.ffn["name"] for block in model.blueprint.blocks] == ["swiglu", "moc", "swiglu", "moc"]


def test_cached_is_uncached(model):
    tokens = torch.randint(0, 64, (2, 20))
    with torch.no_grad():
        whole = model(tokens).logits
        state = model.make_state(2, 20)
        parts = [
            model(tokens[:, a:b], state=state).logits
            for a, b in [(0, 9), (9, 13), *((i, i + 1) for i in range(13, 20))]
        ]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)


def test_packed_and_padded(model):
    tokens = torch.randint(0, 64, (1, 12))
    segments = torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0]])
    positions = torch.tensor([[0, 0, 0, 1, 2, 3, 0, 1, 2, 3, 4, 0]])
    with torch.no_grad():
        together = model(tokens, segment_ids=segments, positions=positions).logits
        assert torch.allclose(together[:, 2:6], model(tokens[:, 2:6]).logits, atol=1e-4)
        assert torch.allclose(together[:, 6:11], model(tokens[:, 6:11]).logits, atol=1e-4)


@pytest.mark.parametrize("low", [False, True])
def test_it_learns(model, low):
    model.train()
    tokens = torch.randint(0, 64, (4, 33), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = model.token_losses(tokens[:, :-1], tokens[:, 1:], torch.ones(4, 32))
        loss = out.sum_loss / 128 + sum(out.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for module in model.modules():
            if hasattr(module, "after_step"):
                module.after_step()
        losses.append(out.sum_loss.item() / 128)
    assert {"moc/z", "moc/calibration"} <= set(out.losses)
    assert "moc/load/1" in out.metrics
    assert "moc/load/3" in out.metrics
    assert losses[-1] < 0.7 * losses[0]
