"""Components nested in others: a layer's router is a component with a place, a record and weights of its own."""

import dataclasses
import json

import pytest
import torch

from luna_kernel.base import integrity
from luna_kernel.base.errors import ConfigError, IntegrityError, MissingPluginsError, PluginError, UsageError
from luna_kernel.contracts.layers import Context
from luna_kernel.model.blueprint import Blueprint, model_components
from luna_kernel.model.checkpoint import open_model, save_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.parts import make_parts
from luna_kernel.model.weights_file import read_weights, write_weights
from luna_kernel.plugins import load_plugins
from luna_kernel.testing import LayerConformance

SOURCE = '''
from typing import Any

import pydantic
import torch
import torch.nn.functional as F

from luna_kernel import LUNA_API, hookimpl
from luna_kernel.contracts.layers import Layer
from luna_kernel.contracts.routers import Router, Routing


class PairConfig(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    num_experts: int = 3
    router: Any = {"name": "linear"}


class LinearConfig(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)
    scale: float = 1.0


@hookimpl
def luna_add_layers(add):
    """Layers."""
    add("ffn", "pair", f"{__name__}:Pair", config=f"{__name__}:PairConfig", place="block 1")
    add("ffn", "untidy", f"{__name__}:Untidy", config=f"{__name__}:PairConfig")


@hookimpl
def luna_add_routers(add):
    """A router."""
    add("router", "linear", f"{__name__}:Linear", config=f"{__name__}:LinearConfig", version=VERSION, oldest=1)


class Linear(Router):
    def __init__(self, config, dims, num_experts, top_k):
        super().__init__(config, dims, num_experts, top_k)
        self.weight = torch.nn.Parameter(torch.empty(num_experts, dims.d_model))
        self.reset_parameters()

    def reset_parameters(self):
        torch.nn.init.normal_(self.weight)

    def forward(self, x, ctx, bias=None, extra=None):
        logits = self.config.scale * F.linear(x, self.weight)
        p = logits.softmax(-1)
        weights, experts = p.topk(self.top_k)
        return Routing(experts, weights, p, logits)

    @classmethod
    def migrate(cls, weights, node, from_version):
        return {"weight": weights["matrix"]}, {"scale": node["factor"]}


class Pair(Layer):
    nested = {"router": "router"}

    def __init__(self, config, dims, *, router):
        super().__init__()
        self.router = None if router is None else router(dims, config.num_experts, 1)
        self.scales = torch.nn.Parameter(torch.empty(config.num_experts, dims.d_model))
        self.reset_parameters()

    def reset_parameters(self):
        super().reset_parameters()
        torch.nn.init.normal_(self.scales)

    def forward(self, x, ctx):
        if self.router is None:
            return x * self.scales[0]
        routing = self.router(x.float().flatten(0, 1), ctx)
        return x * (routing.weights[..., None] * self.scales[routing.experts]).sum(1).view_as(x)


class Untidy(Pair):
    def __init__(self, config, dims, *, router):
        super().__init__(config, dims, router=None)
        self.routers = torch.nn.ModuleList([router(dims, 3, 1)])
'''


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setenv("LUNA_LANG", "en")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The plugins with layer `pair` and its router."""
    file = tmp_path_factory.mktemp("plugin") / "pairs.py"
    file.write_text(SOURCE.replace("VERSION", "2"))
    return load_plugins(f"none,{file}")


@pytest.fixture
def nested(blueprint, pair):
    """A model with a nested router in block 1."""
    torch.manual_seed(0)
    blueprint = blueprint.with_node("blocks.1.ffn", {"name": "pair", "router": {"name": "linear", "scale": 2.0}})
    return Decoder(blueprint, pair.registry).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(20).view(2, 10)).logits


def test_a_nested_component_is_a_part_with_its_own_place_and_share(nested, pair, tmp_path):
    places = [part.place for part in nested.parts]
    assert places.index("blocks.1.ffn.router") == places.index("blocks.1.ffn") + 1
    assert [part.place for part in nested.parts if part.nested] == ["blocks.1.ffn.router"]
    assert "blocks.1.ffn.router.weight" in nested.state_dict()
    assert nested.resolved_blueprint.node_at("blocks.1.ffn.router") == {"name": "linear", "scale": 2.0}
    manifest = save_model(tmp_path / "m", nested, plugins=pair)
    shares = {(r.kind, r.name): (r.places, r.weight_share, r.version) for r in manifest.components}
    total = sum(weight.numel() for weight in nested.parameters())
    assert shares["router", "linear"] == (("blocks.1.ffn.router",), round(96 / total, 6), 2)
    assert shares["ffn", "pair"] == (("blocks.1.ffn",), round(96 / total, 6), 1)  # the router's are not counted twice
    opened = open_model(tmp_path / "m", selection=str(pair.selection))
    assert torch.equal(logits(opened.model), logits(nested))


def test_without_the_plugin_everything_is_said_at_once(nested, pair, tmp_path):
    save_model(tmp_path / "m", nested, plugins=pair)
    with pytest.raises(MissingPluginsError) as caught:
        open_model(tmp_path / "m", selection="none")
    assert "block 1: ffn;" in str(caught.value)
    assert "block 1: ffn.router;" in str(caught.value)


def test_a_wrong_weight_names_the_innermost_owner(nested, pair, tmp_path):
    save_model(tmp_path / "m", nested, plugins=pair)
    file = tmp_path / "m" / "model.safetensors"
    weights = {name: value.clone() for name, value in read_weights(file).items()}
    del weights["blocks.1.ffn.router.weight"]
    write_weights(file, weights)
    reseal(tmp_path / "m")
    with pytest.raises(IntegrityError, match=r"router “linear” at blocks\.1\.ffn\.router"):
        open_model(tmp_path / "m", selection=str(pair.selection))


def reseal(folder, change=lambda data: None):
    data = json.loads((folder / "luna.json").read_text())
    change(data)
    data["files"] = integrity.seal(folder, exclude=["luna.json"])
    (folder / "luna.json").write_text(json.dumps(data))


def test_an_old_nested_component_is_migrated(nested, pair, tmp_path):
    folder = tmp_path / "m"
    save_model(folder, nested, plugins=pair)
    weights = {name: value.clone() for name, value in read_weights(folder / "model.safetensors").items()}
    weights["blocks.1.ffn.router.matrix"] = weights.pop("blocks.1.ffn.router.weight")
    write_weights(folder / "model.safetensors", weights)

    def older(data):
        data["blueprint"]["blocks"][1]["ffn"]["router"] = {"name": "linear", "factor": 2.0}
        for record in data["components"]:
            record["version"] = 1

    reseal(folder, older)
    assert torch.equal(logits(open_model(folder, selection=str(pair.selection)).model), logits(nested))


@pytest.mark.parametrize(
    ("node", "error", "words"),
    [
        ({"name": "linera"}, UsageError, ["blocks.1.ffn.router", "linear"]),
        ({"name": "topk"}, UsageError, ["blocks.1.ffn.router", "luna-plugin-moe"]),
        ({"name": "linear", "scael": 1}, ConfigError, ["blocks.1.ffn.router", "scael", "scale"]),
        ("linear", ConfigError, ["blocks.1.ffn.router", "{name: …}", "linear"]),
        ({}, ConfigError, ["blocks.1.ffn.router"]),
    ],
)
def test_a_wrong_nested_node_is_an_error_with_its_place(blueprint, pair, node, error, words):
    with pytest.raises(error) as caught:
        Decoder(blueprint.with_node("blocks.1.ffn", {"name": "pair", "router": node}), pair.registry)
    text = f"{caught.value} {caught.value.hint}"
    assert all(word in text for word in words), text


def test_a_field_that_is_none_goes_without(pair, blueprint):
    parts = make_parts("ffn", "x", {"name": "pair", "router": None}, blueprint.dims, pair.registry)
    assert [part.place for part in parts] == ["x"]
    assert parts[0].module.router is None


def test_a_nested_component_must_be_kept_under_its_name(pair, blueprint):
    with pytest.raises(PluginError, match=r"untidy.*router"):
        make_parts("ffn", "x", {"name": "untidy"}, blueprint.dims, pair.registry)


def test_nodes_are_found_and_changed_at_any_depth(blueprint):
    deep = {"name": "a", "inner": {"name": "b", "inner": {"name": "c", "x": 1}}}
    blueprint = blueprint.with_node("blocks.0.ffn", deep)
    assert blueprint.node_at("blocks.0.ffn.inner.inner") == {"name": "c", "x": 1}
    changed = blueprint.with_node("blocks.0.ffn.inner.inner", {"name": "d"})
    assert changed.node_at("blocks.0.ffn") == {"name": "a", "inner": {"name": "b", "inner": {"name": "d"}}}
    assert blueprint.node_at("blocks.0.ffn") == deep
    for nowhere in ("blocks.0.ffn.other", "blocks.9.ffn", "nowhere"):
        with pytest.raises(KeyError):
            blueprint.node_at(nowhere)
    assert Blueprint.from_json(json.loads(json.dumps(changed.to_json()))) == changed


def test_the_decoder_tells_its_tokens(nested):
    seen = []

    def note(module, arguments):
        seen.append(arguments[1].tokens)

    nested.blocks[1].ffn.register_forward_pre_hook(note)
    tokens = torch.arange(6).view(2, 3)
    nested(tokens)
    assert torch.equal(seen[0], tokens)


def test_condition_rows():
    ctx = Context(torch.arange(3).expand(2, 3), condition={"a": torch.tensor([[1.0], [2.0]])})
    ctx.condition["b"] = torch.arange(12.0).view(2, 3, 2)
    assert ctx.condition_rows("a").tolist() == [[1.0]] * 3 + [[2.0]] * 3
    assert torch.equal(ctx.condition_rows("b"), torch.arange(12.0).view(6, 2))
    assert ctx.condition_rows("c") is None


def test_what_a_selection_brings_into_a_new_model(tmp_path):
    """Named plugins bring their placed components; `all` only the automatic ones; required ones nothing."""
    line = "    add('ffn', '{}', 'luna_kernel.model.feed_forward:SwiGLU', place='every block'{})\n"
    file = tmp_path / "own.py"
    head = "from luna_kernel import LUNA_API, hookimpl\n@hookimpl\ndef luna_add_layers(add):\n"
    file.write_text(head + line.format("one", "") + line.format("two", ", automatic=False"))
    plugins = load_plugins(f"none,{file}")
    assert model_components(plugins) == ["one", "two"]
    registry = plugins.registry
    for every, expected in ((True, ["one"]), (False, [])):
        plugins.selection = dataclasses.replace(plugins.selection, files=(), every=every)
        assert model_components(plugins) == expected
    assert registry.find("ffn", "two").automatic is False


class TestPair(LayerConformance):
    """The suite builds what is nested as the decoder does."""

    component = ("ffn", "pair")

    @pytest.fixture(autouse=True)
    def _plugins(self, pair, monkeypatch):
        monkeypatch.setattr(type(self), "registry", classmethod(lambda cls: pair.registry))

    test_fully_shard = None  # builds its own registry, in other processes, from what is installed
    test_config_imports_no_torch = None  # the plugin is one file here
