"""`--set`: the grammar, what it does to a blueprint, and that nothing which a person sets is passed over."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.fields import join_fields, parse_fields
from luna_kernel.plugins import load_plugins


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.setenv("LUNA_LANG", "en")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """The kernel's layers, one name in two kinds, and a layer with a component of its own."""
    file = tmp_path_factory.mktemp("plugin") / "nests.py"
    file.write_text(
        """
from typing import Any
from luna_kernel import LUNA_API, hookimpl
from pydantic import BaseModel, ConfigDict

class OuterConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = 3
    inner: dict[str, Any] = {"name": "plain", "rank": 1}

class BothConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    hidden_dim: int = 8

@hookimpl
def luna_add_layers(add):
    config = "luna_kernel.model.feed_forward_config:SwiGLUConfig"
    add("ffn", "outer", f"{__name__}:X", config=f"{__name__}:OuterConfig", place="no block")
    add("ffn", "both", f"{__name__}:X", config=f"{__name__}:BothConfig", place="block 0")
    add("mixer", "both", f"{__name__}:X", place="block 0")
    add("modulator", "gain", f"{__name__}:X", config=f"{__name__}:BothConfig", place="block 0")
"""
    )
    return load_plugins(f"none,{file}").registry


def make(registry, *components, **options):
    return Blueprint.from_preset("mini", registry, vocab_size=100, components=components, **options)


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (["a.b=3", "a.c=text", "d.e=null"], {"a": {"b": 3, "c": "text"}, "d": {"e": None}}),
        (["a.b=none", "a.c=true", 'a.d="3"'], {"a": {"b": "none", "c": True, "d": "3"}}),
        (["a.b = [1, 2]", "a.c=x=y", "a.d="], {"a": {"b": [1, 2], "c": "x=y", "d": ""}}),
        (["mixer:a.b=1.5", "a.c=NaN"], {"mixer:a": {"b": 1.5}, "a": {"c": "NaN"}}),
        (["a.b=emotional", "a.b.head=true"], {"a": {"b": {"name": "emotional", "head": True}}}),
        (["a.b.head=true", "a.b=emotional"], {"a": {"b": {"name": "emotional", "head": True}}}),
        (['a.b={"name": "x"}', "a.b.c.d=1"], {"a": {"b": {"name": "x", "c": {"d": 1}}}}),
    ],
)
def test_what_is_typed(options, fields):
    assert parse_fields(options) == fields


@pytest.mark.parametrize(
    "options",
    [["a"], ["a.b"], ["a=3"], [".b=3"], ["a.=3"], ["a..b=3"], ["a.b=1", "a.b=2"], ["a.b=1", " a . b =1"],
     ["a.b=1", "a.b.c=2"], [""], ["=3"]],
)  # fmt: skip
def test_what_is_refused(options):
    with pytest.raises(UsageError) as caught:
        parse_fields(options)
    assert "--set " in (caught.value.hint or "")


names = st.text("abc_1", min_size=1, max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(names, inner)
)


@given(st.dictionaries(names, st.dictionaries(names, values, min_size=1), max_size=4))
def test_json_comes_back(fields):
    options = [f"{a}.{b}={json.dumps(value)}" for a, inner in fields.items() for b, value in inner.items()]
    assert parse_fields(options) == fields


@given(st.text(max_size=30))
def test_any_text_is_a_field_or_an_error(text):
    try:
        (fields,) = parse_fields([text]).values()
    except UsageError:
        return
    assert fields


def test_the_second_wins():
    assert join_fields({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "d": {"e": 4}}) == {
        "a": {"b": 3, "c": 2},
        "d": {"e": 4},
    }


def test_the_presets_own_layers_take_fields(registry):
    fields = {"attention": {"window": 8, "sinks": 1}, "rope": {"theta": 5.0}, "swiglu": {"hidden_dim": 32}}
    blueprint = make(registry, configs=fields)
    assert all(block.mixer == {"name": "attention", "window": 8, "sinks": 1} for block in blueprint.blocks)
    assert all(block.ffn["hidden_dim"] == 32 for block in blueprint.blocks)
    assert blueprint.position == {"name": "rope", "theta": 5.0}
    assert make(registry) == make(registry, configs={})


def test_a_kind_may_be_named(registry):
    blueprint = make(registry, "ffn:both", configs={"ffn:both": {"hidden_dim": 2}})
    assert blueprint.blocks[0].ffn == {"name": "both", "hidden_dim": 2}
    assert blueprint.blocks[0].mixer == {"name": "attention"}
    blueprint = make(registry, "both", configs={"ffn:both": {"hidden_dim": 2}})
    assert (blueprint.blocks[0].ffn, blueprint.blocks[0].mixer) == ({"name": "both", "hidden_dim": 2}, {"name": "both"})
    blueprint = make(registry, "gain", configs={"modulator:gain": {"hidden_dim": 2}})
    assert blueprint.blocks[0].modulators == ({"name": "gain", "hidden_dim": 2, "slot": "ffn"},)


def test_a_component_inside_takes_a_name_or_fields(registry):
    for given_field, node in (
        ("other", {"name": "other"}),
        ({"rank": 4}, {"name": "plain", "rank": 4}),
        ({"name": "other", "x": 1}, {"name": "other", "x": 1}),
    ):
        blueprint = make(registry, place={"outer": "block 1"}, configs={"outer": {"inner": given_field}})
        assert blueprint.blocks[1].ffn == {"name": "outer", "inner": node}


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"atention": {"window": 8}}, UsageError, ["atention", "attention", "swiglu", "rope"]),
        ({"outer": {"size": 4}}, UsageError, ["outer", "--place outer="]),
        ({"mixer:swiglu": {"hidden_dim": 4}}, UsageError, ["mixer:swiglu"]),
        ({"attention": {"windw": 8}}, ConfigError, ["attention", "windw", "window", "sinks"]),
        ({"attention": {"window": "wide"}}, ConfigError, ["attention", "window"]),
        ({"attention": {"sinks": 2}}, ConfigError, ["attention: ", "window"]),
        ({"rope": {"scaling": "yarm"}}, ConfigError, ["rope", "scaling", "none, linear, ntk, yarn", "“yarn”?"]),
    ],
)  # fmt: skip
def test_nothing_is_passed_over(registry, fields, error, words):
    with pytest.raises(error) as caught:
        make(registry, configs=fields)
    text = f"{caught.value}\n{caught.value.hint}"
    for word in words:
        assert word in text
    assert caught.value.exit_code == 2


def test_fields_for_a_layer_that_found_no_block(registry):
    with pytest.raises(UsageError, match="no block"):
        make(registry, place={"outer": "no block"}, configs={"outer": {"size": 4}})
