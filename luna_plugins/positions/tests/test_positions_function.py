"""The mathematics of the schemes against slow references and transformers' own numbers."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_positions.buckets import bucket
from luna_plugin_positions.position import slopes

from luna_kernel.contracts.layers import Context, Pairs
from luna_kernel.data.tokenizer import CONTROL_TOKENS

NAMES = ("alibi", "t5", "relational", "none")


def pairs_of(queries, keys):
    return Pairs(torch.tensor([queries]), torch.tensor([keys]))


def context(tokens, segments=None, positions=None):
    B, T = tokens.shape
    positions = torch.arange(T).expand(B, T) if positions is None else positions
    return Context(positions, segments, tokens=tokens)


@settings(deadline=None)
@given(st.integers(0, 5000), st.integers(2, 40), st.integers(1, 300))
def test_buckets_against_the_formula(n, num_buckets, more):
    exact = num_buckets // 2
    max_distance = exact + more
    if n < exact:
        expected = n
    else:
        share = math.log(n / exact) / math.log(max_distance / exact) * (num_buckets - exact)
        near = abs(share - round(share)) < 1e-6  # where the logarithm's rounding decides, either side is right
        expected = {
            exact + min(math.floor(share + d), num_buckets - exact - 1) for d in ((-1e-6, 1e-6) if near else (0,))
        }
    found = int(bucket(torch.tensor(n), num_buckets, max_distance))
    assert found in (expected if isinstance(expected, set) else {expected})


def test_buckets_are_those_of_transformers():
    attention = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention
    distance = torch.arange(1000)
    theirs = attention._relative_position_bucket(-distance, bidirectional=False, num_buckets=32, max_distance=128)
    assert torch.equal(bucket(distance, 32, 128), theirs)


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8, 12, 20])
def test_slopes_are_those_of_transformers(heads):
    build = pytest.importorskip("transformers.models.bloom.modeling_bloom").build_alibi_tensor
    theirs = build(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(torch.tensor(slopes(heads)), theirs)


def test_alibi_bias(make_position):
    bias = make_position("alibi").bias(None, pairs_of([3, 4], [1, 2, 3, 4]))
    expected = -torch.tensor([[2.0, 1, 0, 0], [3, 2, 1, 0]]) * torch.tensor([0.25, 0.0625, 2**-6, 2**-8]).view(4, 1, 1)
    assert torch.equal(bias, expected[None])


def slow_marks(tokens, segments, openings):
    """Turn and speaker of each token, one at a time."""
    out = []
    for ids, row in zip(tokens.tolist(), segments.tolist(), strict=True):
        turn = speaker = current = 0
        marks = []
        for id_, segment in zip(ids, row, strict=True):
            if segment:
                if segment != current:
                    turn, speaker, current = 0, 0, segment
                if id_ in openings:
                    turn, speaker = turn + 1, openings[id_]
            marks.append([turn, speaker, current])
        out.append(marks)
    return torch.tensor(out)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 11), max_size=3))
def test_marks_against_a_loop(make_position, seed, cuts):
    position = make_position("relational", speakers=[[58], [59, 61], [60]])
    openings = {58: 1, 59: 2, 61: 2, 60: 3}
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(55, 64, (3, 12), generator=generator)
    segments = torch.randint(0, 2, (3, 12), generator=generator) * (
        torch.randint(0, 5, (3, 12), generator=generator) == 0
    ).cumsum(1).add(1)
    expected = slow_marks(tokens, segments, openings)
    edges = [0, *sorted(set(cuts)), 12]
    last, found = None, []
    for a, b in pairwise(edges):
        found.append(position.marks(context(tokens[:, a:b], segments[:, a:b]), last))
        last = found[-1][:, -1]
    assert torch.equal(torch.cat(found, 1), expected)


def test_relational_bias(make_position):
    position = make_position("relational")
    user, assistant = 64 - 6, 64 - 5
    tokens = torch.tensor([[user, 1, assistant, 2, user, 3]])
    ctx = context(tokens)
    marks = position.marks(ctx, None)
    bias = position.bias(ctx, Pairs(ctx.positions, ctx.positions, marks, marks))
    other, same = position.table[:, :8], position.table[:, 8:]
    assert torch.equal(bias[0, :, 5, 0], same[:, 2])  # the user, two turns ago
    assert torch.equal(bias[0, :, 5, 3], other[:, 1])  # the assistant, a turn ago
    assert torch.equal(bias[0, :, 5, 4], same[:, 0])
    assert torch.equal(bias[0, :, 3, 1], other[:, 1])


def test_default_speakers_are_those_of_the_tokenizer(make_position):
    names = dict(enumerate(CONTROL_TOKENS, 64 - len(CONTROL_TOKENS)))
    who = {names[id_]: speaker for id_, speaker in make_position("relational").openings}
    assert who == {"<|user|>": 1, "<|assistant|>": 2, "<|thinking|>": 2, "<|proactive|>": 2, "<|system|>": 3}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shift", [1, 1000, 30_000])
def test_a_common_shift_changes_nothing(name, shift, make_position, dims):
    from luna_kernel.model.attention import Attention
    from luna_kernel.model.attention_config import AttentionConfig

    fields = {"rope": None} if name == "relational" else {}
    position = make_position(name, **fields)
    torch.manual_seed(0)
    attention = Attention(AttentionConfig(), dims).eval()
    x, tokens = torch.randn(2, 20, 32), torch.randint(0, 64, (2, 20))

    def run(by):
        ctx = context(tokens, positions=(torch.arange(20) + by).expand(2, 20))
        ctx.position = position
        with torch.no_grad():
            return attention(x, ctx)

    assert (run(shift) - run(0)).abs().max() <= 1e-5
    assert name == "none" or (run(0) - attention(x, context(tokens))).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_positions_beyond_any_training_length(name, make_position):
    position = make_position(name)
    far = Pairs(
        torch.tensor([[10**9]]), torch.tensor([[0, 10**9]]), *(torch.tensor([[[n, 1, 1]]]) for n in (10**6, 10**6))
    )
    if name == "relational":
        far = Pairs(far.queries, far.keys, far.query_marks, torch.tensor([[[0, 1, 1], [10**6, 1, 1]]]))
    bias = position.bias(None, far)
    assert bias is None or torch.isfinite(bias).all()


def test_bad_configurations(make_position):
    from luna_kernel.base.errors import ConfigError

    for name, fields, word in (
        ("t5", {"max_distance": 16}, "max_distance"),
        ("relational", {"max_turns": 4}, "max_turns"),
        ("relational", {"speakers": [[1], [1]]}, "speakers"),
        ("relational", {"speakers": [[64]]}, "64"),
    ):
        with pytest.raises(ConfigError, match=word):
            make_position(name, **fields)
