"""The layer: memory at birth, segments, padding, and a state that belongs to the request and does not grow."""

import copy
import json
import pathlib
import subprocess
import sys

import pytest
import torch
from luna_plugin_ssm.config import HybridConfig, StateSpaceConfig
from luna_plugin_ssm.hybrid import Hybrid
from luna_plugin_ssm.layer import StateSpace

from luna_kernel.base.errors import ConfigError
from luna_kernel.contracts.layers import Dims


def test_memory_at_birth_reaches_thousands_of_tokens(make_layer, context):
    layer = make_layer(stir=False, chunk_size=64).double()
    x = torch.randn(1, 4600, 32, dtype=torch.float64)
    changed = x.clone()
    changed[:, 0] = torch.randn(32, dtype=torch.float64)
    with torch.no_grad():
        response = (layer(changed, context(1, 4600)) - layer(x, context(1, 4600))).square().mean(-1)[0].sqrt()
    near, far, farther = response[4:12].mean(), response[2000:2250].mean(), response[4000:4500].mean()
    assert far > 1e-3 * near
    assert farther > 0.4 * far  # and it fades slowly
    assert response[:2000].mean() > far


def test_initial_steps_span_their_range(make_layer):
    layer = make_layer(stir=False, head_dim=4, step_min=1e-3, step_max=0.1)
    steps = torch.nn.functional.softplus(layer.step_bias)
    assert steps[0].item() == pytest.approx(1e-3, rel=1e-3)
    assert steps[-1].item() == pytest.approx(0.1, rel=1e-3)
    ratios = steps[1:] / steps[:-1]
    assert torch.allclose(ratios, ratios[:1].expand_as(ratios), rtol=1e-3)
    assert torch.allclose(torch.exp(layer.rate_log), torch.ones(layer.heads))


@pytest.mark.parametrize("chunk", [1, 3, 16, 100])
def test_chunk_size_changes_nothing(make_layer, context, chunk):
    x = torch.randn(2, 45, 32)
    with torch.no_grad():
        expected = make_layer(chunk_size=64)(x, context(2, 45))
        assert torch.allclose(make_layer(chunk_size=chunk)(x, context(2, 45)), expected, atol=2e-5)


def test_padding_inside_a_sample_is_stepped_over(make_layer, context):
    layer = make_layer(chunk_size=8)
    x = torch.randn(2, 12, 32)
    holes = torch.tensor([[0, 1, 1, 0, 0, 1, 1, 1, 2, 0, 2, 2, 2, 0, 3, 3, 3, 0]] * 2)
    wide = 5 * torch.randn(2, 18, 32)
    wide[:, holes[0] > 0] = x[:, : int((holes[0] > 0).sum())]
    real = holes[0] > 0
    dense = holes[:, real]
    with torch.no_grad():
        expected = layer(x[:, : dense.shape[1]], context(2, dense.shape[1], dense))
        assert torch.allclose(layer(wide, context(2, 18, holes))[:, real], expected, atol=1e-5)
        for cuts in ([3], [4, 5, 9, 10], [13, 14]):
            state = layer.make_state(2, 18, torch.float32, torch.device("cpu"))
            parts = []
            for a, b in zip([0, *cuts], [*cuts, 18], strict=True):
                parts.append(layer(wide[:, a:b], context(2, b - a, holes[:, a:b], state)))
            assert torch.allclose(torch.cat(parts, 1)[:, real], expected, atol=1e-5), cuts


def test_padding_alone_leaves_the_state_untouched(make_layer, context):
    layer = make_layer()
    state = layer.make_state(2, 9, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        layer(torch.randn(2, 5, 32), context(2, 5, state=state))
        before = state.copy()
        layer(torch.randn(2, 4, 32), context(2, 4, torch.zeros(2, 4, dtype=torch.int64), state))
        layer(torch.randn(2, 1, 32), context(2, 1, torch.zeros(2, 1, dtype=torch.int64), state))
    assert torch.equal(state.hidden, before.hidden)
    assert torch.equal(state.inputs, before.inputs)
    assert torch.equal(state.segment, before.segment)


def test_a_new_segment_begins_from_nothing(make_layer, context):
    layer = make_layer()
    first, second = torch.randn(1, 7, 32), torch.randn(1, 6, 32)
    state = layer.make_state(1, 13, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        alone = layer(second, context(1, 6))
        layer(first, context(1, 7, torch.full((1, 7), 1), state))
        after = layer(second, context(1, 6, torch.full((1, 6), 2), state))
    assert torch.allclose(after, alone, atol=1e-6)


def test_the_state_is_constant_in_size_and_can_be_copied(make_layer, context):
    layer = make_layer()
    state = layer.make_state(1, 10_000, torch.bfloat16, torch.device("cpu"))
    assert state.hidden.dtype == torch.float32
    size = state.hidden.numel() + state.inputs.numel()
    assert size == layer.heads * layer.head_dim * 8 + 3 * layer.channels
    state = layer.make_state(1, 0, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        layer(torch.randn(1, 300, 32), context(1, 300, state=state))
        for kept in (state.hidden, state.inputs):  # no view of the prompt's activations, which would outlive it
            assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()
        twin = state.copy()
        x = torch.randn(1, 1, 32)
        first = layer(x, context(1, 1, state=state))
        assert torch.equal(layer(x, context(1, 1, state=twin)), first)
        assert not torch.equal(layer(x, context(1, 1, state=state)), first)
    assert state.hidden.numel() + state.inputs.numel() == size


def test_without_convolution_there_are_no_inputs_to_keep(make_layer):
    layer = make_layer(conv_width=0)
    assert not any(name.startswith("conv") for name, _ in layer.named_parameters())
    assert layer.make_state(2, 0, torch.float32, torch.device("cpu")).inputs.shape[1] == 0


def test_flops_stop_growing_beyond_a_chunk(make_layer):
    layer = make_layer(chunk_size=16)
    assert layer.flops_per_token(8) < layer.flops_per_token(16) == layer.flops_per_token(100_000)


def test_bad_configurations(dims):
    with pytest.raises(ConfigError) as caught:
        StateSpace(StateSpaceConfig(head_dim=5), dims)
    assert "5" in caught.value.text
    assert caught.value.hint
    with pytest.raises(ValueError, match="step_min"):
        StateSpaceConfig(step_min=0.2, step_max=0.1)


def test_head_dim_defaults_to_what_divides():
    dims = Dims(64, 40, 1, 1, 1, 40, 64, 64)
    assert StateSpace(StateSpaceConfig(), dims).head_dim == 8
    assert StateSpace(StateSpaceConfig(expand=16), dims).head_dim == 64
    assert StateSpace(StateSpaceConfig(expand=2), dims).head_dim == 16


def test_the_hybrid_is_its_formula(dims, context):
    torch.manual_seed(0)
    layer = Hybrid(HybridConfig(ssm={"state_dim": 8}), dims)
    with torch.no_grad():
        layer.mix.normal_()
    x = torch.randn(2, 9, 32)
    with torch.no_grad():
        y = layer(x, context(2, 9))
        parts = [layer.attention(x, context(2, 9)), layer.ssm(x, context(2, 9))]
    expected = sum(
        beta * part / torch.sqrt(part.square().mean(-1, keepdim=True) + dims.norm_eps)
        for beta, part in zip(layer.mix, parts, strict=True)
    )
    assert torch.allclose(y, expected, atol=1e-5)


def test_the_hybrids_state_can_be_copied(dims, context):
    torch.manual_seed(0)
    layer = Hybrid(HybridConfig(ssm={"state_dim": 8}), dims).eval()
    state = layer.make_state(1, 20, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        layer(torch.randn(1, 5, 32), context(1, 5, state=state))
        twin, deep = state.copy(), copy.deepcopy(state)
        x = torch.randn(1, 1, 32)
        first = layer(x, context(1, 1, state=state))
        assert torch.equal(layer(x, context(1, 1, state=twin)), first)
        assert torch.equal(layer(x, context(1, 1, state=deep)), first)


PIECES = """
import json, pathlib, re, torch
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder
from luna_kernel.plugins import load_plugins

torch.set_num_threads(1)
torch.manual_seed(0)
registry = load_plugins().registry
sizes = {"d_model": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_dim": 48}
blueprint = Blueprint.from_preset(
    "tiny", registry, vocab_size=64, components=["ssm"], place={"ssm": "every block"},
    configs={"ssm": {"state_dim": 8}}, dims=sizes,
)
model = Decoder(blueprint, registry).eval()
tokens = torch.randint(0, 64, (1, 65536))

def peak():  # getrusage would begin from the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) / 1024

peaks = []
with torch.no_grad():
    state = model.make_state(1, 65536)
    for piece in tokens.split(1024, dim=1):
        logits = model(piece, state=state, last_only=True).logits
        peaks.append(peak())
    whole = model(tokens, last_only=True).logits
print(json.dumps([peaks[7], peaks[-1], peak(), (logits - whole).abs().max().item()]))
"""


@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="reads the peak from Linux's /proc")
def test_a_long_text_in_pieces_takes_no_more_memory_than_a_short_one():
    """65,536 tokens, 1,024 at a time, are one pass of 65,536, in the memory of the first few thousand (MiB)."""
    done = subprocess.run([sys.executable, "-c", PIECES], capture_output=True, text=True, check=True)
    early, late, whole, difference = json.loads(done.stdout.splitlines()[-1])
    assert late < early + 4
    assert whole > late + 20  # so the measure would show it
    assert difference < 1e-4
