"""The scalings of the rotary embedding are transformers' own numbers, and reach further than the training."""

import math

import pytest
import torch

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.model.llama import blueprint_from_llama, config_to_llama
from luna_kernel.model.rope import RotaryPosition
from luna_kernel.model.rope_config import RotaryConfig
from luna_kernel.model.rope_scaling import frequencies, magnitude

utilities = pytest.importorskip("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
transformers = pytest.importorskip("transformers")
CPU = torch.device("cpu")


def theirs(head_dim, theta, length, **rope):
    return transformers.LlamaConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, max_position_embeddings=length,
        rope_parameters={"rope_theta": theta, **rope},
    )  # fmt: skip


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("factor", [2.0, 8.0, 40.0])
@pytest.mark.parametrize("options", [{}, {"beta_fast": 16.0, "beta_slow": 2.0}, {"attention_factor": 1.25}], ids=str)
def test_yarn(head_dim, theta, factor, options):
    rope = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 2048, **options}
    expected, scale = utilities["yarn"](theirs(head_dim, theta, 4096, **rope), CPU)
    config = RotaryConfig(theta=theta, scaling="yarn", factor=factor, original_max_positions=2048, **options)
    torch.testing.assert_close(frequencies(config, head_dim, CPU), expected, rtol=1e-6, atol=0)
    assert math.isclose(magnitude(config), scale, rel_tol=1e-9)


@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize("factor", [2.0, 5.0])
def test_ntk(head_dim, factor):
    """transformers has only the dynamic form: at twice the trained length its base is ours of `factor + 1`."""
    dynamic = theirs(head_dim, 1e4, 512, rope_type="dynamic", factor=factor)
    expected, _ = utilities["dynamic"](dynamic, CPU, seq_len=1024)
    config = RotaryConfig(scaling="ntk", factor=factor + 1)
    torch.testing.assert_close(frequencies(config, head_dim, CPU), expected, rtol=1e-5, atol=0)
    plain = frequencies(RotaryConfig(), head_dim, CPU)
    ratio = plain / frequencies(config, head_dim, CPU)
    torch.testing.assert_close(ratio[[0, -1]], torch.tensor([1.0, factor + 1]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scaling", ["none", "linear", "ntk", "yarn", "llama3"])
def test_scores_know_differences_only(scaling):
    dims = Dims(64, 32, 1, 4, 4, 16, 48, 128)
    rope = RotaryPosition(RotaryConfig(scaling=scaling, factor=4.0, original_max_positions=64), dims)
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 10, 16), torch.randn(2, 4, 10, 16)

    def scores(shift):
        turned = rope.rotate(q, k, Context((torch.arange(10) + shift).expand(2, 10)))
        return turned[0] @ turned[1].transpose(2, 3)

    assert (scores(50) - scores(0)).abs().max() <= 1e-4
    assert torch.isfinite(scores(10**6)).all()


def test_gradient_of_a_scaled_rotation():
    rope = RotaryPosition(
        RotaryConfig(scaling="yarn", factor=4.0, original_max_positions=64), Dims(8, 8, 1, 1, 1, 8, 8, 8)
    )
    q = torch.randn(1, 1, 3, 8, dtype=torch.float64, requires_grad=True)
    ctx = Context(torch.arange(3)[None])
    assert torch.autograd.gradcheck(lambda x: rope.rotate(x, x, ctx)[0], q)


BASE = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": 128, "rope_theta": 10000.0,
}  # fmt: skip


def test_the_old_spelling_of_yarn():
    blueprint = blueprint_from_llama(
        {**BASE, "rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": None}}
    )
    assert blueprint.position == {
        "name": "rope", "theta": 10000.0, "scaling": "yarn", "factor": 4.0, "original_max_positions": 128
    }  # fmt: skip


@pytest.mark.parametrize("bad", [{"mscale": 1.0}, {"truncate": False}, {"factor": None}], ids=str)
def test_what_luna_does_not_have_is_refused(bad):
    with pytest.raises(UsageError, match="yarn"):
        blueprint_from_llama({**BASE, "rope_scaling": {"type": "yarn", "factor": 4.0, **bad}})
    with pytest.raises(UsageError, match="dynamic"):
        blueprint_from_llama({**BASE, "rope_scaling": {"type": "dynamic", "factor": 4.0}})


def test_what_the_hub_does_not_have_is_refused(kernel, blueprint):
    from luna_kernel.model.decoder import Decoder

    for place, node, word in (
        ("position", {"name": "rope", "scaling": "ntk", "factor": 2.0}, "ntk"),
        ("blocks.0.mixer", {"name": "attention", "window": 8, "sinks": 2}, "sinks"),
    ):
        resolved = Decoder(blueprint.with_node(place, node), kernel.registry).resolved_blueprint
        with pytest.raises(UsageError, match=word):
            config_to_llama(resolved)


def test_bad_bounds(kernel):
    with pytest.raises(ConfigError, match="beta"):
        kernel.registry.get("position", "rope").make_config({"scaling": "yarn", "beta_fast": 1.0, "beta_slow": 2.0})
    with pytest.raises(ConfigError, match="sinks"):
        kernel.registry.get("mixer", "attention").make_config({"sinks": 2})
