"""Models of version 1 of the layer, whose router was a bare matrix, still open."""

import json

import pytest
import torch

from luna_kernel.base import integrity
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import WEIGHTS_FILE, open_model, save_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.weights_file import read_weights, write_weights
from luna_kernel.plugins import load_plugins

SIZES = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}


@pytest.fixture
def old_model(tmp_path):
    """A model as version 1 saved it, and its logits."""
    plugins = load_plugins("moc")
    blueprint = Blueprint.from_preset(
        "mini", plugins.registry, vocab_size=64, components=["moc"], configs={"moc": {"num_experts": 4}}, dims=SIZES
    )
    torch.manual_seed(0)
    model = Decoder(blueprint, plugins.registry).eval()
    folder = tmp_path / "old"
    save_model(folder, model, plugins=plugins)
    weights = read_weights(folder / WEIGHTS_FILE)
    old = {name.replace("ffn.router.weight", "ffn.router"): value.clone() for name, value in weights.items()}
    assert "blocks.1.ffn.router" in old
    write_weights(folder / WEIGHTS_FILE, old)
    file = folder / "luna.json"
    data = json.loads(file.read_text())
    data["components"] = [record for record in data["components"] if record["kind"] != "router"]
    for record in data["components"]:
        if record["name"] == "moc":
            record["version"] = 1
    for block in data["blueprint"]["blocks"]:
        for field in ("router", "full_gradient", "autonomy_rank", "mediator", "rounds"):
            block["ffn"].pop(field, None)
        if block["ffn"]["name"] == "moc":
            block["ffn"]["context_heads"] = None
    data["files"] = integrity.seal(folder, exclude=["luna.json"])
    file.write_text(json.dumps(data))
    return folder, model


def test_an_old_model_opens_and_says_the_same(old_model):
    folder, model = old_model
    opened = open_model(folder)
    tokens = torch.randint(0, 64, (2, 9))
    with torch.no_grad():
        assert torch.equal(opened.model(tokens).logits, model(tokens).logits)
    here, there = opened.model.resolved_blueprint.blocks[1].ffn, model.resolved_blueprint.blocks[1].ffn
    assert {**here, "context_heads": 1} == there
