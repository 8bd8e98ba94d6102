"""What the CPU backend proposes, and the facts that it goes by."""

import mmap
import tracemalloc

import pytest
import torch

from luna_kernel.base import machine
from luna_kernel.base.machine import memory_speed
from luna_kernel.contracts.backends import ModelFacts
from luna_kernel.model.checkpoint import save_model
from luna_kernel.model.cpu_backend import CpuBackend, propose
from luna_kernel.model.facts import model_facts

GIB = 2**30
FITS = ModelFacts(GIB, GIB // 4, 0.0, 1000, 4096)


def changes(facts, available, flags=(), speed=None):
    return {one.change: one.value for one in propose(facts, available, set(flags), speed)}


def test_a_model_that_fits_is_left_alone():
    assert changes(FITS, 8 * GIB) == {}
    assert changes(FITS, None) == {}


def test_too_large_for_the_memory():
    (one,) = propose(FITS, GIB, set())
    assert (one.change, one.value) == ("low_memory", True)
    assert "1,0 GiB" in one.reason
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


SPARSE = ModelFacts(8 * GIB, GIB, 0.0, 0, 64, top_k=4, resting_bytes=4 * GIB, expert_bytes=GIB)
"""Eight experts of 1 GiB over all layers, four of which work: a token reads 4 GiB."""


@pytest.mark.parametrize(
    ("speed", "expected"),
    [(20, None), (19.9, 3), (15, 3), (14.9, 2), (10, 2), (9, 1), (1, 1), (None, None)],
)
def test_fewer_experts_where_memory_is_slow(speed, expected):
    speed = None if speed is None else speed * GIB
    wanted = {} if expected is None else {"experts_per_token": expected}
    assert changes(SPARSE, 64 * GIB, speed=speed) == wanted
    assert changes(SPARSE, None, speed=speed) == wanted
    assert changes(FITS, 64 * GIB, speed=1.0) == {}, "a dense model has no experts to spare"
    assert list(changes(SPARSE, 4 * GIB, speed=speed)) == ["low_memory"], "then every expert is read anyway"


def test_the_reason_has_the_figures():
    (one,) = propose(SPARSE, 64 * GIB, set(), 12.0 * GIB)
    assert all(figure in one.reason for figure in ("4,0 GiB", "3,0", "6,0"))


def test_memory_has_a_speed():
    assert 1e8 < memory_speed(1 << 20) < 1e13
    assert memory_speed(1 << 50) is None, "more than there is"
    assert machine.last_level_cache() is None or 1 << 15 <= machine.last_level_cache() <= 1 << 34


def test_measuring_the_memory_takes_little_of_it_and_gives_it_back(monkeypatch):
    """Twice the last-level cache, none of which is left."""
    monkeypatch.setattr(machine, "last_level_cache", lambda: 8 << 20)
    made = []

    class Counted(mmap.mmap):
        def __new__(cls, fileno, length):
            made.append(super().__new__(cls, fileno, length))
            return made[-1]

    monkeypatch.setattr(machine.mmap, "mmap", Counted)
    assert memory_speed() > 1e8
    (one,) = made
    assert one.closed
    tracemalloc.start()
    memory_speed()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20, "beside the buffer next to nothing"


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
