"""The decoder as a whole: packing, padding, states, losses, ways to run it."""

import dataclasses
from itertools import pairwise

import pytest
import torch

from luna_kernel.contracts.layers import Context
from luna_kernel.model.blueprint import Blueprint
from luna_kernel.model.decoder import Decoder, LossOutput, segment_positions
from luna_kernel.model.kv_cache import KVCache


@pytest.fixture
def tokens():
    return torch.randint(0, 61, (3, 20), generator=torch.Generator().manual_seed(0))


def logits(model, *arguments, **options):
    with torch.no_grad():
        return model(*arguments, **options).logits


def near(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_names_of_the_weights(model, blueprint, kernel):
    block = ["ffn.down.weight", "ffn.gate_up.weight", "ffn_norm.weight", "mixer.out.weight", "mixer.qkv.weight",
             "mixer_norm.weight"]  # fmt: skip
    expected = {"embedding.weight", "norm.weight", *(f"blocks.{i}.{name}" for i in range(2) for name in block)}
    assert set(model.state_dict()) == expected
    untied = Decoder(dataclasses.replace(blueprint, tie_embeddings=False), kernel.registry)
    assert set(untied.state_dict()) == expected | {"head.weight"}


def test_first_loss_is_that_of_guessing(kernel):
    model = Decoder(Blueprint.from_preset("mini", kernel.registry, vocab_size=4096), kernel.registry)
    tokens = torch.randint(0, 4096, (2, 65))
    with torch.no_grad():
        loss = model.token_losses(tokens[:, :-1], tokens[:, 1:]).sum_loss / 128
    assert loss == pytest.approx(torch.tensor(4096.0).log().item(), rel=0.02)


def test_residual_matrices_start_smaller(kernel):
    model = Decoder(Blueprint.from_preset("tiny", kernel.registry, vocab_size=512), kernel.registry)
    block = model.blocks[0]
    small = 0.02 / (2 * 6) ** 0.5
    for matrix, std in ((block.mixer.qkv, 0.02), (block.ffn.gate_up, 0.02), (block.mixer.out, small),
                        (block.ffn.down, small), (model.embedding, 0.02)):  # fmt: skip
        assert matrix.weight.std().item() == pytest.approx(std, rel=0.02)


def test_same_seed_same_model_also_from_meta(blueprint, kernel):
    def state(make):
        torch.manual_seed(3)
        return make().state_dict()

    def from_meta():
        with torch.device("meta"):
            model = Decoder(blueprint, kernel.registry)
        model.to_empty(device="cpu")
        torch.manual_seed(3)
        model.reset_parameters()
        return model

    first, second, third = (state(m) for m in (lambda: Decoder(blueprint, kernel.registry),) * 2 + (from_meta,))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.isfinite(third[name]).all() for name in third)
    again = state(from_meta)
    assert all(torch.equal(third[name], again[name]) for name in third)


def test_cached_is_uncached_in_any_pieces(model, tokens):
    expected = logits(model, tokens)
    for sizes in ([20], [1] * 20, [7, 1, 1, 11], [19, 1]):
        state = model.make_state(3, 20)
        near(torch.cat([logits(model, piece, state=state) for piece in tokens.split(sizes, 1)], 1), expected)
        assert state.length == 20
    near(logits(model, tokens, last_only=True), expected[:, -1:])


def test_packed_loss_is_unpacked_loss(model, tokens):
    lengths = [7, 1, 9, 3]
    samples = [tokens[0, sum(lengths[:i]) : sum(lengths[: i + 1])] for i in range(4)]
    segments = torch.cat([torch.full((n,), i + 1) for i, n in enumerate(lengths)])[None]
    targets = torch.roll(tokens[:1], -1, 1)
    weights = torch.rand(1, 20, generator=torch.Generator().manual_seed(1))
    packed = model.token_losses(tokens[:1], targets, weights, segment_ids=segments).sum_loss
    begin, apart = 0, torch.zeros(())
    for sample in samples:
        part = slice(begin, begin + len(sample))
        apart = apart + model.token_losses(sample[None], targets[:, part], weights[:, part]).sum_loss
        begin += len(sample)
    near(packed, apart, 1e-4)
    mine = torch.autograd.grad(packed, model.parameters())
    theirs = torch.autograd.grad(apart, model.parameters())
    for a, b in zip(mine, theirs, strict=True):
        near(a, b)


def test_token_losses_is_cross_entropy_of_the_logits(model, tokens):
    output = model.token_losses(tokens[:, :-1], tokens[:, 1:])
    assert isinstance(output, LossOutput)
    plain = torch.nn.functional.cross_entropy(
        model(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
    )
    near(output.sum_loss, plain, 1e-3)
    mine, theirs = (torch.autograd.grad(loss, model.parameters()) for loss in (output.sum_loss, plain))
    for a, b in zip(mine, theirs, strict=True):
        near(a, b, 1e-4)


def test_positions():
    segments = torch.tensor([[1, 1, 1, 2, 2, 3, 0, 0], [0, 0, 1, 1, 1, 1, 1, 2]])
    expected = [[0, 1, 2, 0, 1, 0, 0, 1], [0, 1, 0, 1, 2, 3, 4, 0]]
    assert segment_positions(segments, segments).tolist() == expected
    assert segment_positions(segments, None).tolist() == [list(range(8))] * 2


def test_right_padding_between_pieces(model, tokens):
    """A batch of unequal turns: each row goes on where its own text ended."""
    state = model.make_state(2, 40)
    segments = torch.ones(2, 8, dtype=torch.int64)
    segments[1, 5:] = 0
    first = logits(model, tokens[:2, :8], segments, state=state)
    second = logits(model, tokens[:2, 8:12], state=state)
    near(first[0], logits(model, tokens[:1, :8])[0])
    near(second[0], logits(model, tokens[:1, :12])[0, 8:])
    alone = torch.cat([tokens[1:2, :5], tokens[1:2, 8:12]], 1)
    near(second[1], logits(model, alone)[0, 5:])
    assert state.next_position.tolist() == [12, 9]


def test_the_cache_is_not_rebuilt_per_token(blueprint, kernel):
    model = Decoder(blueprint, kernel.registry).eval()
    state = model.make_state(1, 5000)
    cache = state.blocks[0].mixer
    assert isinstance(cache, KVCache)
    places, capacities = set(), set()
    for _ in range(300):
        logits(model, torch.zeros(1, 1, dtype=torch.int64), state=state)
        places.add(cache.keys.data_ptr())
        capacities.add(cache.capacity)
    assert sorted(capacities) == [64, 128, 256, 512]
    assert len(places) <= 4
    with pytest.raises(ValueError, match="5000"):
        logits(model, torch.zeros(1, 4701, dtype=torch.int64), state=state)


def test_a_sliding_window_keeps_memory_small():
    cache = KVCache((2, 1, 4), 10_000, torch.float32, torch.device("cpu"), window=16)
    for i in range(1000):
        keys, _ = cache.append(torch.full((2, 1, 1, 4), float(i)), torch.zeros(2, 1, 1, 4), torch.tensor([[i]]), None)
        assert keys[0, 0, -min(16, i + 1) :, 0].tolist() == list(range(max(0, i - 15), i + 1))
    assert cache.capacity <= 64
    assert cache.dropped + cache.length == 1000


def test_sinks_stay_when_the_window_moves():
    cache = KVCache((2, 1, 4), 10_000, torch.float32, torch.device("cpu"), window=16, sinks=3)
    for i in range(1000):
        keys, _ = cache.append(torch.full((2, 1, 1, 4), float(i)), torch.zeros(2, 1, 1, 4), torch.tensor([[i]]), None)
        held = keys[0, 0, :, 0].tolist()
        assert held[:3] == list(range(min(3, i + 1)))
        assert held[-min(16, i + 1) :] == list(range(max(0, i - 15), i + 1))
        assert cache.capacity <= 24
    assert cache.dropped + cache.length == 1000


@pytest.mark.parametrize("padded", [False, True])
def test_sinks_are_the_first_tokens(blueprint, kernel, padded):
    """A cache with sinks gives what one pass gives, far beyond the window, rows of different length too."""
    for i in range(2):
        blueprint = blueprint.with_node(f"blocks.{i}.mixer", {"name": "attention", "window": 6, "sinks": 2})
    torch.manual_seed(0)
    model = Decoder(blueprint, kernel.registry).eval()
    tokens = torch.randint(0, 61, (2, 300))
    segments = None
    if padded:
        segments = torch.ones(2, 300, dtype=torch.int64)
        segments[0, :5] = 0
    whole = logits(model, tokens, segment_ids=segments)
    state = model.make_state(2, 300)
    edges = [0, 30, 33, *range(34, 301)]
    parts = [
        logits(model, tokens[:, a:b], segment_ids=None if segments is None else segments[:, a:b], state=state)
        for a, b in pairwise(edges)
    ]
    real = slice(5 if padded else 0, None)
    near(torch.cat(parts, 1)[:, real], whole[:, real])
    assert state.blocks[0].mixer.capacity <= 40
    far = tokens.clone()
    far[:, 5] = (far[:, 5] + 1) % 61  # the first token of the padded row
    changed = logits(model, far, segment_ids=segments)[0, -1] - whole[0, -1]
    assert (changed.abs().max() > 1e-4) == padded


def test_a_new_sample_in_the_row_keeps_its_window(blueprint, kernel):
    """Positions begin anew with a sample; what the window drops is told by the sample that goes on."""
    blueprint = blueprint.with_node("blocks.0.mixer", {"name": "attention", "window": 40})
    model = Decoder(blueprint, kernel.registry).eval()
    tokens = torch.randint(0, 61, (1, 150))
    segments = torch.cat([torch.full((1, 60), 1), torch.full((1, 90), 2)], 1)
    positions = torch.cat([torch.arange(60), torch.arange(90)])[None]
    whole = logits(model, tokens, segment_ids=segments, positions=positions)
    state = model.make_state(1, 150)
    parts = [
        logits(
            model,
            tokens[:, i : i + 1],
            segment_ids=segments[:, i : i + 1],
            positions=positions[:, i : i + 1],
            state=state,
        )
        for i in range(150)
    ]
    near(torch.cat(parts, 1), whole)


def test_losses_and_metrics_of_layers_come_out():
    ctx = Context(torch.zeros(1, 1))
    ctx.add_loss("moc/balance", torch.tensor(1.0))
    ctx.layer = 3
    ctx.add_loss("moc/balance", torch.tensor(2.0))
    ctx.add_metric("moc/load", torch.ones(4, requires_grad=True))
    assert ctx.losses == {"moc/balance": torch.tensor(3.0)}
    assert list(ctx.metrics) == ["moc/load/3"]
    assert not ctx.metrics["moc/load/3"].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decode_under_autocast(model, tokens, dtype):
    expected = logits(model, tokens)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        state = model.make_state(3, 20)
        assert state.blocks[0].mixer.keys.dtype == dtype
        found = torch.cat([logits(model, piece, state=state) for piece in tokens.split([5, 1, 14], 1)], 1)
    near(found.float(), expected, 0.05 * expected.abs().max().item() if dtype == torch.bfloat16 else 1e-5)


def test_a_bfloat16_model(model, tokens):
    expected = logits(model, tokens)
    model = model.bfloat16()
    state = model.make_state(3, 20)
    found = torch.cat([logits(model, piece, state=state) for piece in tokens.split([5, 1, 14], 1)], 1)
    assert found.dtype == torch.bfloat16
    near(found.float(), expected, 0.1 * expected.abs().max().item())
    model.token_losses(tokens[:, :-1], tokens[:, 1:]).sum_loss.backward()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled(model, tokens):
    torch._dynamo.reset()
    compiled = torch.compile(model)
    near(logits(compiled, tokens), logits(model, tokens), 1e-4)
    losses = [m(tokens[:, :-1], targets=tokens[:, 1:]).sum_loss for m in (model, compiled)]
    near(losses[1], losses[0], 1e-3)
    mine, theirs = (torch.autograd.grad(loss, model.parameters()) for loss in losses)
    for a, b in zip(mine, theirs, strict=True):
        near(a, b, 1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_fully_sharded(blueprint, kernel, tokens, tmp_path):
    """Blocks and the whole sharded, head and embedding tied: the loss passes through `forward`, so it is seen."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    def step(model):
        loss = model.token_losses(tokens[:, :-1], tokens[:, 1:]).sum_loss
        loss.backward()
        return loss.detach()

    torch.manual_seed(0)
    plain = Decoder(blueprint, kernel.registry)
    torch.manual_seed(0)
    sharded = Decoder(blueprint, kernel.registry)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        for block in sharded.blocks:
            fully_shard(block)
        fully_shard(sharded)
        near(step(sharded), step(plain), 1e-4)
        for mine, theirs in zip(sharded.parameters(), plain.parameters(), strict=True):
            near(mine.grad.full_tensor(), theirs.grad)
    finally:
        dist.destroy_process_group()
