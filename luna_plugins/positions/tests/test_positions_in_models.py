"""The schemes in whole models: with windows and sinks, with a cache, beside mixers that know no position."""

import pytest
import torch

from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

NAMES = ("alibi", "t5", "relational", "none")
SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}


@pytest.fixture(scope="module")
def plugins():
    return load_plugins("positions")


def build(plugins, name, window=None, sinks=0, registry=None):
    registry = registry or plugins.registry
    place = {} if name is None else {name: "every block"}
    blueprint = Blueprint.from_preset(
        "mini", registry, vocab_size=64, place=place, dims={**SIZES, "max_positions": 400}
    )
    for i in range(2):
        blueprint = blueprint.with_node(f"blocks.{i}.mixer", {"name": "attention", "window": window, "sinks": sinks})
    torch.manual_seed(0)
    model = Decoder(blueprint, registry).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("window", "sinks"), [(None, 0), (9, 0), (9, 3)])
def test_cached_is_uncached(name, window, sinks, plugins):
    model = build(plugins, name, window, sinks)
    tokens = torch.randint(0, 64, (2, 300), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(tokens).logits
        state = model.make_state(2, 300)
        pieces = [tokens[:, :40], tokens[:, 40:43], *tokens[:, 43:].split(1, 1)]
        parts = torch.cat([model(piece, state=state).logits for piece in pieces], 1)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)
    if window:
        assert state.blocks[0].mixer.capacity <= 64


def test_relational_is_rope_at_birth(plugins):
    relational, plain = build(plugins, "relational"), build(plugins, None)
    with torch.no_grad():
        relational.position.table.zero_()
        missing = relational.load_state_dict(plain.state_dict(), strict=False)
        tokens = torch.randint(0, 64, (2, 50))
        torch.testing.assert_close(relational(tokens).logits, plain(tokens).logits, rtol=0, atol=1e-5)
    assert missing.missing_keys == ["position.table"]


def test_relational_learns_who_speaks(plugins):
    """What the user said comes back where the assistant begins, whatever was said in between by the system."""
    torch.manual_seed(0)
    model = build(plugins, "relational").train()
    user, assistant, system = 58, 59, 60

    def batch(n):
        said, noise = torch.randint(0, 20, (n, 1)), torch.randint(0, 20, (n, 3))
        fixed = [torch.full((n, 1), id_) for id_ in (user, system, assistant)]
        return torch.cat([fixed[0], said, fixed[1], noise, fixed[2], said], 1)

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        rows = batch(32)
        loss = torch.nn.functional.cross_entropy(model(rows[:, :-1]).logits[:, -1], rows[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert model.position.table.abs().max() > 0.01
    assert loss < 2.0


def test_optimizer_hints(plugins):
    from luna_kernel.train.optimizers import named_parameters

    found = {item.name: item for item in named_parameters(build(plugins, "t5"))}
    assert not found["position.table"].weight_decay
    assert not found["position.table"].matrix


@pytest.mark.parametrize("name", NAMES)
def test_state_space_beside_it(name):
    pytest.importorskip("luna_plugin_ssm")
    registry = load_plugins("positions,ssm").registry
    model = build(None, name, registry=registry)
    blueprint = model.blueprint.with_node("blocks.0.mixer", {"name": "ssm", "state_dim": 8, "chunk_size": 8})
    model = Decoder(blueprint, registry).eval()
    tokens = torch.randint(0, 64, (2, 30))
    with torch.no_grad():
        state = model.make_state(2, 30)
        parts = [model(tokens[:, a:b], state=state).logits for a, b in ((0, 9), (9, 10), (10, 30))]
        torch.testing.assert_close(torch.cat(parts, 1), model(tokens).logits, rtol=0, atol=1e-4)
