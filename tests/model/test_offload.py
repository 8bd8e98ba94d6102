"""`offload`: one block's weights at a time; the same logits to the bit, and less memory than the model's size."""

import json
import subprocess
import sys

import pytest
import torch

from luna_kernel.base.errors import IntegrityError
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.checkpoint import open_model, save_model
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.generation import generate
from luna_kernel.model.sampling_config import Sampling


@pytest.fixture
def folder(model, kernel, tmp_path):
    save_model(tmp_path / "model", model, plugins=kernel)
    return tmp_path / "model"


def test_the_same_to_the_bit(folder):
    whole, pieces = open_model(folder).model, open_model(folder, offload=True).model
    tokens = torch.randint(0, 61, (2, 30))
    with torch.no_grad():
        assert torch.equal(pieces(tokens).logits, whole(tokens).logits)
    answers = [list(generate(m, [1, 2, 3], Sampling(seed=1), max_tokens=20)) for m in (whole, pieces)]
    assert answers[0] == answers[1]


def test_nothing_stays_after_a_pass(folder):
    model = open_model(folder, offload=True).model
    seen = []
    model.blocks[0].mixer.register_forward_hook(lambda *_: seen.append([w.is_meta for w in model.blocks.parameters()]))
    with torch.no_grad():
        model(torch.randint(0, 61, (1, 4)))
    assert all(weight.is_meta for weight in model.blocks.parameters())
    own = len(list(model.blocks[0].parameters()))
    assert seen == [[False] * own + [True] * own]
    assert not model.embedding.weight.is_meta


def test_another_type(folder):
    model = open_model(folder, offload=True, dtype=torch.float64).model
    tokens = torch.randint(0, 61, (1, 9))
    with torch.no_grad():
        expected = open_model(folder, dtype=torch.float64).model(tokens).logits
        assert torch.equal(model(tokens).logits, expected)


def test_an_error_in_a_block_lets_go_too(folder):
    model = open_model(folder, offload=True).model
    with pytest.raises(ValueError, match="decode state"), torch.no_grad():
        model(torch.zeros(1, 9, dtype=torch.int64), state=model.make_state(1, 4))
    assert all(weight.is_meta for weight in model.blocks.parameters())


def test_a_file_that_changes_is_refused(folder, model, kernel):
    opened = open_model(folder, offload=True).model
    save_model(folder, model, plugins=kernel)
    with pytest.raises(IntegrityError, match="safetensors"), torch.no_grad():
        opened(torch.zeros(1, 2, dtype=torch.int64))


PEAK = """
import json, pathlib, re, sys, torch
from luna_kernel.model.checkpoint import open_model
torch.set_num_threads(1)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
def run(folder, offload):
    model = open_model(folder, selection="none", verify=False, offload=offload).model
    with torch.no_grad():
        return float(model(torch.zeros(1, 4, dtype=torch.int64)).logits.double().sum())
torch.nn.Linear(512, 1024)(torch.zeros(4, 512))
run(sys.argv[3], False), run(sys.argv[3], True)  # a small model: what is imported on use is not counted
before = peak()
total = run(sys.argv[1], sys.argv[2] == "yes")
print(json.dumps([peak() - before, total]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_model_larger_than_what_it_needs(kernel, folder, tmp_path):
    """80 MiB of blocks, 10 MiB each: with offload the process grows by less than half of them."""
    dims = {"d_model": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 8, "head_dim": 64, "ffn_dim": 1024}
    blueprint = Blueprint.from_preset("mini", kernel.registry, vocab_size=300, dims=dims)
    model = Decoder(blueprint, kernel.registry)
    save_model(tmp_path / "large", model, plugins=kernel)
    size = sum(weight.numel() * weight.element_size() for weight in model.blocks.parameters()) / 1024
    grown = {}
    for choice in ("no", "yes"):
        command = [sys.executable, "-c", PEAK, str(tmp_path / "large"), choice, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        grown[choice] = json.loads(done.stdout)
    assert grown["no"][1] == grown["yes"][1]
    assert grown["no"][0] > 0.9 * size
    assert grown["yes"][0] < 0.5 * size, f"{grown} KiB of {size}"
