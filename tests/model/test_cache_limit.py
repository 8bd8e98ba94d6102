"""`cache_limit`: no attention keeps more, whatever the prompt; the same function as a model made with that window."""

import pytest
import torch

from luna_kernel.base.errors import UsageError
from luna_kernel.model.cache_limit import limit_cache
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.generation import generate
from luna_kernel.model.sampling_config import Sampling


@pytest.fixture
def long_model(blueprint, kernel):
    def make(window=None, sinks=0, layers=(0, 1)):
        import dataclasses

        plan = dataclasses.replace(blueprint, dims=dataclasses.replace(blueprint.dims, max_positions=600))
        for i in layers:
            plan = plan.with_node(f"blocks.{i}.mixer", {"name": "attention", "window": window, "sinks": sinks})
        torch.manual_seed(0)
        return Decoder(plan, kernel.registry).eval()

    return make


@pytest.mark.parametrize("limit", [16, 17, 37, 64, 100, 333])
def test_no_cache_grows_beyond_it(long_model, limit):
    model = long_model()
    narrowed = limit_cache(model, limit)
    assert [one.place for one in narrowed] == ["blocks.0.mixer", "blocks.1.mixer"]
    assert all(one.window + one.sinks > limit // 2 for one in narrowed)
    run = generate(model, [i % 61 for i in range(250)], Sampling(temperature=0), max_tokens=300)
    kept = set()
    for _ in run:
        kept |= {block.mixer.capacity for block in run.state.blocks}
    assert len(run.tokens) == 300
    assert max(kept) <= limit


def test_it_is_the_model_with_that_window(long_model):
    limited = long_model()
    one = limit_cache(limited, 40)[0]
    made = long_model(one.window, one.sinks)
    made.load_state_dict(limited.state_dict())
    prompt = [i * 7 % 61 for i in range(100)]
    runs = [list(generate(model, prompt, Sampling(temperature=0), max_tokens=60)) for model in (limited, made)]
    assert runs[0] == runs[1]
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        assert torch.equal(limited(tokens).logits, made(tokens).logits)
        assert not torch.allclose(limited(tokens).logits[:, -1], long_model()(tokens).logits[:, -1], atol=1e-4)


def test_what_fits_stays(long_model):
    model = long_model(10, 2)
    assert limit_cache(model, 32) == []
    assert [(b.mixer.window, b.mixer.sinks) for b in model.blocks] == [(10, 2)] * 2
    assert [one.before for one in limit_cache(long_model(10, 0, layers=(1,)), 24)] == [None]


def test_a_limit_that_is_too_small(long_model):
    with pytest.raises(UsageError, match="16"):
        limit_cache(long_model(), 15)
