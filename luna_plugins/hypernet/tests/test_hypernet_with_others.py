"""Adapters on collaborative experts and on a state space, in one block."""

import pytest
import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

pytest.importorskip("luna_plugin_moc")
pytest.importorskip("luna_plugin_ssm")

CONFIGS = {
    "moc": {"num_experts": 4, "probe_rank": 8, "fusion_dim": 8},
    "ssm": {"state_dim": 8, "chunk_size": 8},
    "hyper_adapter": {"width": 4, "rank": 2, "hidden": 4},
    "domain_adapter": {"domains": 4, "rank": 2, "hidden": 4},
}
PAIRS = {
    "moc": (["moc", "hyper_adapter"], {"moc": "every block", "hyper_adapter": "ffn of every block"}),
    "ssm": (["ssm", "domain_adapter"], {"ssm": "every block", "domain_adapter": "mixer of every block"}),
    "both": (
        ["moc", "ssm", "hyper_adapter", "domain_adapter"],
        {"moc": "every block", "ssm": "every block", "hyper_adapter": "mixer of every block"},
    ),
}
SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}


@pytest.fixture(params=PAIRS)
def model(request):
    torch.manual_seed(0)
    registry = load_plugins().registry
    components, place = PAIRS[request.param]
    configs = {name: CONFIGS[name] for name in components}
    blueprint = Blueprint.from_preset(
        "tiny", registry, vocab_size=64, components=components, place=place, configs=configs, dims=SIZES
    )
    model = Decoder(blueprint, registry).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model


def test_it_asks_for_the_domain(model):
    assert model.conditions == {"domain": 4}
    with pytest.raises(ValueError, match="width"):
        model(torch.zeros(1, 2, dtype=torch.int64), condition={"domain": torch.zeros(1, 5)})


def test_cached_is_uncached(model):
    tokens = torch.randint(0, 64, (2, 20))
    condition = {"domain": torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])}
    with torch.no_grad():
        whole = model(tokens, condition=condition).logits
        state = model.make_state(2, 20)
        cuts = [(0, 9), (9, 13), *((i, i + 1) for i in range(13, 20))]
        parts = [model(tokens[:, a:b], state=state, condition=condition).logits for a, b in cuts]
        other = model(tokens, condition={"domain": condition["domain"].roll(1, 0)}).logits
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
    assert not torch.allclose(other, whole, atol=1e-3)


def test_packed_samples_keep_their_own(model):
    tokens = torch.randint(0, 64, (1, 12))
    segments = torch.tensor([[0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 0]])
    positions = torch.tensor([[0, 0, 0, 1, 2, 3, 0, 1, 2, 3, 4, 0]])
    first, second = torch.eye(4)[:2].unbind()
    domain = torch.zeros(1, 12, 4)
    domain[:, 2:6], domain[:, 6:11] = first, second
    with torch.no_grad():
        together = model(tokens, segments, positions, {"domain": domain}).logits
        one = model(tokens[:, 2:6], condition={"domain": first[None]}).logits
        two = model(tokens[:, 6:11], condition={"domain": second[None]}).logits
    assert torch.allclose(together[:, 2:6], one, atol=1e-4)
    assert torch.allclose(together[:, 6:11], two, atol=1e-4)


def test_it_learns(model):
    model.train()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 64, (4, 33), generator=generator)
    condition = {"domain": torch.eye(4)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        out = model.token_losses(tokens[:, :-1], tokens[:, 1:], condition=condition)
        loss = out.sum_loss / 128 + sum(out.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(out.sum_loss.item() / 128)
    assert losses[-1] < 0.8 * losses[0]
