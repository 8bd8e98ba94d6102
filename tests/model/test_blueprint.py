"""Blueprints: presets, places, conflicts, the table; all of it readable without torch."""

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.model.blueprint import Blueprint, find_components, load_preset, model_components, preset_names
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.place import Place, parse_overrides, parse_place
from luna_kernel.model.table import short
from luna_kernel.plugins import load_plugins


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setenv("LUNA_LANG", "en")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The kernel's components and some of a plugin in a file, in every kind that a blueprint names."""
    file = tmp_path_factory.mktemp("plugin") / "shapes.py"
    file.write_text(
        """
from luna_kernel import LUNA_API, hookimpl

@hookimpl
def luna_add_layers(add):
    swiglu, attention = "luna_kernel.model.feed_forward", "luna_kernel.model.attention"
    config = "luna_kernel.model.feed_forward_config:SwiGLUConfig"
    add("ffn", "wide", swiglu + ":SwiGLU", config=config, place="every 2nd block", default={"hidden_dim": 64})
    add("ffn", "last", swiglu + ":SwiGLU", config=config, place="last block")
    add("ffn", "both", swiglu + ":SwiGLU", config=config, place="no block")
    add("mixer", "both", attention + ":Attention", config=attention + "_config:AttentionConfig", place="block 0")
    add("ffn", "homeless", swiglu + ":SwiGLU", config=config)
    add("modulator", "gain", f"{__name__}:Gain", place="every block")
    add("position", "none", f"{__name__}:Nothing", place="every block")
    add("position", "nil", f"{__name__}:Nothing", place="every block")

def __getattr__(name):
    import torch
    from luna_kernel.contracts.layers import Modulator, Position

    class Gain(Modulator):
        def __init__(self, config, dims):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.zeros(dims.d_model))

        def reset_parameters(self):
            torch.nn.init.zeros_(self.gain)

        def forward(self, x, y, ctx):
            return y * (1 + self.gain)

    class Nothing(Position):
        def __init__(self, config, dims):
            super().__init__()

    found = {"Gain": Gain, "Nothing": Nothing}
    if name not in found:
        raise AttributeError(name)
    return found[name]
"""
    )
    return load_plugins(f"none,{file}")


@pytest.fixture(scope="module")
def registry(shapes):
    return shapes.registry


def make(registry, *components, preset="mini", dims=None, **options):
    """A preset with four blocks of width 192."""
    sizes = {"num_layers": 4, "d_model": 192, "num_heads": 6, "num_kv_heads": 6, "ffn_dim": 512, **(dims or {})}
    return Blueprint.from_preset(preset, registry, vocab_size=100, components=components, dims=sizes, **options)


def names(blueprint, slot):
    return [getattr(block, slot)["name"] for block in blueprint.blocks]


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("every block", range(6)),
        ("every 2nd block", (1, 3, 5)),
        ("every 2nd block from 0", (0, 2, 4)),
        ("Every  3rd Block from 1", (1, 4)),
        ("every 1st block", range(6)),
        ("every 9th block", ()),
        ("every 4th block from the end", (1, 5)),
        ("every block except every 4th from the end", (0, 2, 3, 4)),
        ("every block except first block except last block", (1, 2, 3, 4)),
        ("block 3", (3,)),
        ("blocks 5, 0,2", (0, 2, 5)),
        ("first block", (0,)),
        ("last block", (5,)),
        ("first 2 blocks", (0, 1)),
        ("last 2 blocks", (4, 5)),
        ("no block", ()),
        ("3 of 4 blocks", (0, 2, 3, 4)),
        ("3:1", (0, 2, 3, 4)),
        ("1:1", (0, 2, 4)),
        ("1:3", (2,)),
        ("2 : 1", (0, 1, 3, 4)),
        ("7 of 8 blocks", (0, 1, 2, 3, 4)),
        ("3:1 except first block", (2, 3, 4)),
    ],
)
def test_places(text, blocks):
    assert parse_place(text, 6) == Place(tuple(blocks))


@pytest.mark.parametrize(
    "text",
    ["", "everywhere", "block 6", "blocks 1,9", "every 0th block", "every 2nd block from 6", "last 7 blocks",
     "first 0 blocks", "block -1", "blocks 1,", "every block except", "mixer of", "no block please",
     "0:1", "3:0", "4 of 4 blocks", "3 of 0 blocks", "1:2:3"],
)  # fmt: skip
def test_bad_places(text):
    with pytest.raises(UsageError, match="moc") as caught:
        parse_place(text, 6, component="moc")
    assert "every 2nd block" in (caught.value.hint or "")


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_place_or_an_error(text):
    try:
        place = parse_place(text, 6)
    except UsageError:
        return
    assert all(0 <= block < 6 for block in place.blocks)


@pytest.mark.parametrize("layers", [1, 2, 4, 7, 8, 24])
@pytest.mark.parametrize("group", [2, 4, 8])
def test_a_ratio_leaves_every_nth_block_from_the_end(group, layers):
    expected = parse_place(f"every block except every {group}th from the end", layers)
    assert parse_place(f"{group - 1}:1", layers) == parse_place(f"{group - 1} of {group} blocks", layers) == expected
    assert layers - 1 not in expected.blocks


@pytest.mark.parametrize(
    ("ratio", "layers", "taken"),
    [
        ("1:7", 16, (0, 8)),
        ("1:7", 12, (4,)),
        ("7:1", 16, (*range(7), *range(8, 15))),
        ("7:1", 12, (0, 1, 2, *range(4, 11))),
        ("7:1", 8, tuple(range(7))),
        ("1:7", 8, (0,)),
    ],
)
def test_wide_ratios(ratio, layers, taken):
    assert parse_place(ratio, layers).blocks == taken


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
def test_a_ratio_counts_groups_from_the_end(taken, left, layers):
    """Read from the last block on: `left` blocks stay, `taken` are taken, and so on."""
    pattern = ([False] * left + [True] * taken) * layers
    expected = tuple(block for block in range(layers) if pattern[layers - 1 - block])
    assert parse_place(f"{taken}:{left}", layers).blocks == expected


def test_place_names_the_wrapped_layer():
    assert parse_place("mixer of every 2nd block", 4) == Place((1, 3), "mixer")


def test_overrides():
    assert parse_overrides(["moc = every block", "ssm=last block"]) == {"moc": "every block", "ssm": "last block"}
    for bad in (["moc"], ["=x"], ["moc="], ["moc=a", "moc=b"]):
        with pytest.raises(UsageError):
            parse_overrides(bad)


def test_presets(kernel):
    assert preset_names() == ["mini", "tiny", "small", "base"]
    sizes = {}
    for name, vocab in (("mini", 4096), ("tiny", 8192), ("small", 32768), ("base", 32768)):
        blueprint = Blueprint.from_preset(name, kernel.registry, vocab_size=vocab)
        sizes[name] = blueprint.table(kernel.registry).parameters
        dims = blueprint.dims
        assert all(size % 16 == 0 for size in (dims.d_model, dims.ffn_dim, dims.head_dim))
        assert set(load_preset(name)) == {"help", "dims", "mixer", "ffn", "position", "tie_embeddings"}
    assert {name: round(size / 1e6, 1) for name, size in sizes.items()} == {
        "mini": 1.0, "tiny": 13.8, "small": 52.2, "base": 125.9,
    }  # fmt: skip
    for bad in ("minni", "../secrets", ""):
        with pytest.raises(UsageError, match="preset"):
            load_preset(bad)


def test_components_go_to_their_places(registry):
    blueprint = make(registry, "wide", "mixer:both")
    assert names(blueprint, "ffn") == ["swiglu", "wide", "swiglu", "wide"]
    assert names(blueprint, "mixer") == ["both", "attention", "attention", "attention"]
    assert blueprint.blocks[1].ffn == {"name": "wide", "hidden_dim": 64}


def test_place_and_configuration_of_the_user(registry):
    blueprint = make(registry, "wide", place={"wide": "blocks 0,2"}, configs={"wide": {"bias": True}})
    assert names(blueprint, "ffn") == ["wide", "swiglu", "wide", "swiglu"]
    assert blueprint.blocks[0].ffn == {"name": "wide", "hidden_dim": 64, "bias": True}
    assert names(make(registry, place={"homeless": "block 1"}), "ffn")[1] == "homeless"


def test_modulators_and_position(registry):
    blueprint = make(registry, "gain", "none", place={"gain": "mixer of last 2 blocks"})
    assert [block.modulators for block in blueprint.blocks] == [(), (), *[({"name": "gain", "slot": "mixer"},)] * 2]
    assert blueprint.position == {"name": "none"}
    model = Decoder(blueprint, registry)
    assert "blocks.3.modulators.0.gain" in model.state_dict()
    assert model.resolved_blueprint.blocks[3].modulators == ({"name": "gain", "slot": "mixer"},)


def test_conflicts_name_both_and_the_block(registry):
    with pytest.raises(UsageError) as caught:
        make(registry, "wide", "last")
    text = str(caught.value)
    for word in ("wide", "last", "ffn", "block 3", "--place"):
        assert word in text
    assert names(make(registry, "wide", "last", place={"wide": "block 0"}), "ffn") == ["wide", *["swiglu"] * 2, "last"]
    with pytest.raises(UsageError, match="position"):
        make(registry, "none", "nil")


def test_what_a_person_places_comes_before_what_places_itself(registry):
    def ffns(*components: str, **place: str) -> list[str]:
        return names(make(registry, *components, place=place), "ffn")

    assert ffns("wide", "last", last="block 1") == ["swiglu", "last", "swiglu", "wide"]
    assert ffns("last", "wide", wide="last block") == ["swiglu", "swiglu", "swiglu", "wide"], "of the same plugin"
    with pytest.raises(UsageError, match="ffn"):
        make(registry, "wide", "last", place={"wide": "every block", "last": "block 1"})
    assert make(registry, "none", place={"nil": "every block"}).position == {"name": "nil"}


def test_bad_requests(registry):
    for arguments, word in (
        ({"components": ["wdie"]}, "wide"),
        ({"components": ["homeless"]}, "--place"),
        ({"components": ["ffn:nowhere"]}, "nowhere"),
        ({"place": {"wide": "mixer of every block"}}, "modulator"),
        ({"dims": {"d_modell": 3}}, "d_model"),
        ({"dims": {"d_model": 0}}, "d_model"),
        ({"dims": {"d_model": True}}, "d_model"),
        ({"dims": {"num_kv_heads": 3}}, "heads"),
    ):
        with pytest.raises(UsageError) as caught:
            Blueprint.from_preset("mini", registry, vocab_size=100, **arguments)
        assert word in str(caught.value)
    with pytest.raises(UsageError):
        Blueprint.from_preset("mini", registry, vocab_size=0)


def test_one_name_in_two_kinds(registry, shapes):
    assert {c.kind for c in find_components(registry, "both")} == {"mixer", "ffn"}
    assert "mixer:both" in model_components(shapes)
    assert "homeless" not in model_components(shapes)
    assert "attention" not in model_components(shapes)


def test_a_wrong_field_is_an_error_with_its_place(kernel):
    blueprint = make(kernel.registry).with_node("blocks.2.mixer", {"name": "attention", "windw": 3})
    with pytest.raises(ConfigError, match=r"blocks\.2\.mixer.*windw.*window"):
        Decoder(blueprint, kernel.registry)
    with pytest.raises(UsageError, match=r"blocks\.0\.ffn.*moc"):
        Decoder(make(kernel.registry).with_node("blocks.0.ffn", {"name": "moc"}), kernel.registry)


def test_json_round_trip(registry):
    blueprint = make(registry, "wide", "gain", dims={"max_positions": 99})
    assert Blueprint.from_json(json.loads(json.dumps(blueprint.to_json()))) == blueprint


def test_bad_json(kernel):
    good = make(kernel.registry).to_json()
    for change in (
        {"format": 2}, {"dims": {}}, {"dims": {**good["dims"], "more": 1}}, {"blocks": good["blocks"][:2]},
        {"blocks": [{}]}, {"blocks": 3}, {"unknown": 1}, {"blocks": [{**b, "ffn": {}} for b in good["blocks"]]},
        {"blocks": [{**b, "mixer": "x"} for b in good["blocks"]]}, {"position": {"nme": "rope"}},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            Blueprint.from_json({**good, **change})


def test_with_node(registry):
    blueprint = make(registry, "gain")
    for place, _ in blueprint.nodes():
        changed = blueprint.with_node(place, {"name": "x"})
        assert dict(changed.nodes())[place] == {"name": "x"}
        assert sum(a != b for a, b in zip(changed.nodes(), blueprint.nodes(), strict=True)) == 1


def test_table_counts_what_the_model_has(registry):
    blueprint = make(registry, "wide", "gain")
    table = blueprint.table(registry, 64)
    model = Decoder(blueprint, registry)
    assert table.parameters == sum(p.numel() for p in model.parameters())
    d, f, v = 192, 512, 100
    dense = 2 * (4 * d * d + 3 * d * f) + 4 * d * 64
    row = {row.part: row for row in table.rows}
    assert (row["position"].mixer, row["position"].parameters) == ("rope", 0)
    assert row["0"].flops == dense
    assert row["1"].flops == 2 * (4 * d * d + 3 * d * 64) + 4 * d * 64
    assert table.flops == 2 * dense + 2 * row["1"].flops + 2 * d * v
    text = table.render()
    assert "wide + gain" in text
    assert len({len(line) for line in text.splitlines()[1:-1]}) <= 3
    assert table.to_json()["parameters"] == table.parameters
    untied = dataclasses.replace(blueprint, tie_embeddings=False).table(registry)
    assert untied.parameters == table.parameters + d * v


def test_short_numbers():
    found = [short(n) for n in (0, 12, 999, 1000, 9_994, 12_345, 999_499, 1.3e6, 125.9e6, 7e9, 1e14)]
    assert found == [
        "0",
        "12",
        "999",
        "1.00 k",
        "9.99 k",
        "12.3 k",
        "999 k",
        "1.30 M",
        "126 M",
        "7.00 G",
        "100 T",
    ]


def test_a_blueprint_is_read_without_torch():
    code = (
        "import sys\n"
        "from luna_kernel.model.blueprint import Blueprint\n"
        "from luna_kernel.plugins import load_plugins\n"
        "b = Blueprint.from_preset('mini', load_plugins('none').registry, vocab_size=100)\n"
        "Blueprint.from_json(b.to_json())\n"
        "import luna_kernel.testing.pytest_plugin, luna_kernel.model.sampling_config\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
