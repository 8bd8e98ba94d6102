"""What the CPU backend proposes, and the facts that it goes by."""

import pytest
import torch

from luna_kernel.contracts.backends import ModelFacts
from luna_kernel.model.checkpoint import save_model
from luna_kernel.model.cpu_backend import CpuBackend, propose
from luna_kernel.model.facts import model_facts

GIB = 2**30
FITS = ModelFacts(GIB, GIB // 4, 0.0, 1000, 4096)


def changes(facts, available, flags=()):
    return {one.change: one.value for one in propose(facts, available, set(flags))}


def test_a_model_that_fits_is_left_alone():
    assert changes(FITS, 8 * GIB) == {}
    assert changes(FITS, None) == {}


def test_too_large_for_the_memory():
    (one,) = propose(FITS, GIB, set())
    assert (one.change, one.value) == ("low_memory", True)
    assert "1.0 GiB" in one.reason
    assert "256 MiB" in one.reason


def test_caches_that_do_not_fit():
    facts = ModelFacts(GIB, GIB // 4, 0.0, 100_000, 32_768)
    found = changes(facts, 2 * GIB)
    assert list(found) == ["cache_limit"]
    assert found["cache_limit"] % 64 == 0
    assert found["cache_limit"] * 100_000 <= 0.8 * 2 * GIB - GIB < (found["cache_limit"] + 64) * 100_000
    assert changes(facts, 0.9 * GIB) == {"low_memory": True, "cache_limit": 4992}


@pytest.mark.parametrize(("flags", "expected"), [((), {"precision": "fp32"}), (("amx_bf16",), {})])
def test_sixteen_bits_where_they_are_emulated(flags, expected):
    assert changes(ModelFacts(GIB, GIB, 1.0, 0, 64), 8 * GIB, flags) == expected
    assert "low_memory" in changes(ModelFacts(GIB, GIB, 1.0, 0, 64), 2 * GIB), "float32 needs twice the memory"


def test_facts_of_a_folder(model, kernel, tmp_path):
    save_model(tmp_path / "m", model, plugins=kernel)
    facts = model_facts(tmp_path / "m")
    size = sum(weight.numel() * 4 for weight in model.parameters())
    block = sum(weight.numel() * 4 for weight in model.blocks[0].parameters())
    assert (facts.weights_bytes, facts.resident_bytes) == (size, size - block)  # of two equal blocks
    assert (facts.low_share, facts.context_length) == (0.0, 64)
    state = model.make_state(1, 64)
    with torch.no_grad():
        model(torch.zeros(1, 64, dtype=torch.int64), state=state)
    held = sum(2 * block.mixer.keys.numel() * 4 for block in state.blocks)
    assert facts.cache_bytes_per_token * 64 == held
    save_model(tmp_path / "low", model.to(torch.bfloat16), plugins=kernel)
    assert model_facts(tmp_path / "low").low_share == 1.0


def test_the_backend_is_found_and_there(kernel):
    backend = kernel.registry.get("backend", "cpu").load()()
    assert isinstance(backend, CpuBackend)
    assert backend.probe().available
    assert backend.device() == torch.device("cpu")
    assert backend.proposals(ModelFacts(1, 1, 0.0, 1, 1)) == []
